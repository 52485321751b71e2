"""Userfault: serve page faults from user space, for every memory type Linux has.

>>> import userfault
>>> with userfault.lazy(b"page" * 4096) as memory:
...     bytes(memory[:4])
b'page'

The names below are loaded when first used: the pager's processes import this package too, and
must start fast.
"""

from __future__ import annotations

from userfault.version import __version__ as __version__

TYPE_CHECKING = False  # as type checkers know it; `typing` itself is loaded by whoever needs it
if TYPE_CHECKING:
    from typing import Any

    from userfault.api.arrays import lazy_array
    from userfault.api.checkpoint import Checkpoint
    from userfault.api.connecting import connect
    from userfault.api.lazy import lazy
    from userfault.api.memory import LazyMemory
    from userfault.api.pager import Pager
    from userfault.api.serving import Session
    from userfault.api.snapshot import Snapshot
    from userfault.api.statistics import Statistics
    from userfault.api.track import Tracker, Written, track
    from userfault.api.updating import Update
    from userfault.kernel.errors import (
        FaultOverdue,
        FeatureMissing,
        KernelError,
        MemoryUnavailable,
        OpenRefused,
        PagerError,
        RegistrationRefused,
        SourceError,
        SourceTypeError,
        TrackingLost,
        Unavailable,
        UsageError,
        UserfaultError,
    )
    from userfault.linux.probe import probe
    from userfault.pager.core.policy import Policy
    from userfault.snapshot.errors import FormatError, NoSuchSnapshot, StoreError
    from userfault.source.spec import function, zero

_HOMES = {
    "Checkpoint": "userfault.api.checkpoint",
    "FaultOverdue": "userfault.kernel.errors",
    "FeatureMissing": "userfault.kernel.errors",
    "FormatError": "userfault.snapshot.errors",
    "KernelError": "userfault.kernel.errors",
    "LazyMemory": "userfault.api.memory",
    "MemoryUnavailable": "userfault.kernel.errors",
    "NoSuchSnapshot": "userfault.snapshot.errors",
    "OpenRefused": "userfault.kernel.errors",
    "Pager": "userfault.api.pager",
    "PagerError": "userfault.kernel.errors",
    "RegistrationRefused": "userfault.kernel.errors",
    "Policy": "userfault.pager.core.policy",
    "Session": "userfault.api.serving",
    "Snapshot": "userfault.api.snapshot",
    "SourceError": "userfault.kernel.errors",
    "SourceTypeError": "userfault.kernel.errors",
    "Statistics": "userfault.api.statistics",
    "StoreError": "userfault.snapshot.errors",
    "Tracker": "userfault.api.track",
    "TrackingLost": "userfault.kernel.errors",
    "Unavailable": "userfault.kernel.errors",
    "Update": "userfault.api.updating",
    "UsageError": "userfault.kernel.errors",
    "UserfaultError": "userfault.kernel.errors",
    "Written": "userfault.api.track",
    "connect": "userfault.api.connecting",
    "function": "userfault.source.spec",
    "lazy": "userfault.api.lazy",
    "lazy_array": "userfault.api.arrays",
    "probe": "userfault.linux.probe",
    "track": "userfault.api.track",
    "zero": "userfault.source.spec",
}

__all__ = [
    "Checkpoint",
    "FaultOverdue",
    "FeatureMissing",
    "FormatError",
    "KernelError",
    "LazyMemory",
    "MemoryUnavailable",
    "NoSuchSnapshot",
    "OpenRefused",
    "Pager",
    "PagerError",
    "Policy",
    "RegistrationRefused",
    "Session",
    "Snapshot",
    "SourceError",
    "SourceTypeError",
    "Statistics",
    "StoreError",
    "Tracker",
    "TrackingLost",
    "Unavailable",
    "Update",
    "UsageError",
    "UserfaultError",
    "Written",
    "connect",
    "function",
    "lazy",
    "lazy_array",
    "probe",
    "track",
    "zero",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module  # noqa: PLC0415

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'userfault' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
