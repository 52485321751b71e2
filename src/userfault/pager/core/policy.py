"""The knobs of a pager, each with unit, default and reason."""

from __future__ import annotations

import functools
import os
from typing import Any

import msgspec

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import KIB
from userfault.kernel.numbers import flag, one_of, real, whole

LEAST_RESIDENT = 256 * KIB  # a window, and what one instruction may touch beside it


class Policy(msgspec.Struct, frozen=True):
    """How one mapping is filled.

    `background`: fill everything while no fault waits, then let go of the memory.
    `fill_around`: what is filled with the page of a fault: what is worth more than it costs
    (`cost`), windows that double while faults come in a row (`order`), the aligned block of
    `window_bytes` around it (`block`), or nothing (`page`).
    `window_bytes`: largest fill around a fault.  256 KiB is 71 µs of copying (measured on 6.18):
    beyond that a fault of another thread waits too long for too little gain.
    `chunk_bytes`: size of a background fill, for the same reason; the queue is read in between.
    After 64 of them without a fault they are four times as large, until one comes.
    `bandwidth_bytes`: what the background fills in a second at most; None: as fast as it goes.
    What is asked for (`prefetch`, `complete`, a working set) is not held up by it.
    `retries`: how often a failed read of the source is repeated before the page is poisoned.
    `deadline_s`: how long one read of the source may take; then it counts as failed.
    `fetches`: reads of the source under way at once (the pager's `in_flight` bounds all mappings
    together).
    `fault_deadline_s`: a fault that waits for longer is told on standard error, with what it waits
    for; None: never.
    `on_overdue`: what else is done about it: nothing (`report`), `poison` or `kill`.
    `on_interrupt`: what a second SIGINT (Ctrl-C) does while a thread waits for a page: it gives the
    page up (`poison`: the access raises SIGBUS), or nothing (`wait`).
    `on_failure`: `poison` (the access raises SIGBUS) or `kill` (the client is ended).
    `on_exit`: what a `with` block does with unfilled pages while views of the memory live:
    `complete` fills them first, `poison` gives them up.
    `record`: whether the first touches of a restore are recorded as a working set: `once`, where
    the image has none yet, or none that was of use; `always`, and none is replayed; `never`.  Only
    where a set has a place: snapshots in a store, or `lazy(working_set=)`.
    `record_s`: how long at most.  It ends sooner where the rest is to be filled in the background,
    which waits for it: when half a second has passed without a first touch.
    `replay`: whether a working set comes ahead of the faults, if there is one.
    `patience_s`: how long leaving a `with` block waits for that completion.
    `share`: whether the memory of a snapshot in a store is mapped over one copy that all restores
    of it by this user share: `on` (one is begun where there is none), `auto` (where another restore
    has begun one, and `memory=` is not named) or `off`; see docs/sharing.md.
    `share_keep_s`: how long that copy is kept once nobody uses it.
    `trace`: a file to record in what faults and what is filled, for `userfault plan`.
    `resident_bytes`: what may be in memory at once; beyond it, pages that nobody wrote are taken
    out, and filled again when they are touched (memory="shmem"; see docs/residency.md).  None: what
    the memory cgroup and the machine leave, 0: all of it.  `resident_percent`: the same in percent
    of the cgroup's limit, or of the machine's memory where it has none.
    `spill`: a folder for a file that takes pages that were written, if those are too many; None:
    they stay in memory.

    Numbers may be NumPy's.  Raises UsageError for a value that cannot work.
    """

    background: bool = True
    fill_around: str = "cost"
    window_bytes: int = 256 * KIB
    chunk_bytes: int = 256 * KIB
    bandwidth_bytes: int | None = None
    retries: int = 2
    deadline_s: float = 30.0
    fetches: int = 4
    fault_deadline_s: float | None = 30.0
    on_overdue: str = "report"
    on_interrupt: str = "poison"
    on_failure: str = "poison"
    on_exit: str = "complete"
    patience_s: float = 600.0
    share: str = "auto"
    share_keep_s: float = 0.0
    trace: str | None = None
    resident_bytes: int | None = None
    resident_percent: float | None = None
    spill: str | None = None
    record: str = "once"
    record_s: float = 10.0
    replay: bool = True

    def __post_init__(self) -> None:
        put = functools.partial(msgspec.structs.force_setattr, self)
        for name in ("background", "replay"):
            put(name, flag(f"policy {name}", getattr(self, name)))
        for name, allowed in _ANSWERS.items():
            put(name, one_of(f"policy {name}", getattr(self, name), allowed))
        for name, low in _LEAST.items():
            if name == "bandwidth_bytes" and self.bandwidth_bytes is None:
                continue
            number = whole(f"policy {name}", getattr(self, name))
            if number < low:
                raise UsageError(
                    f"policy {name}={number}",
                    cause=f"it must be at least {low}",
                    cure="leave it out for the default",
                )
            put(name, number)
        self._check_budget()
        self._check_keep()
        for name in ("deadline_s", "patience_s", "record_s", "fault_deadline_s"):
            if name == "fault_deadline_s" and self.fault_deadline_s is None:
                continue
            seconds = real(f"policy {name}", getattr(self, name))
            if seconds <= 0:
                raise UsageError(
                    f"policy {name}={seconds}", cause="times must be positive", cure="in seconds"
                )
            put(name, seconds)
        for name in ("trace", "spill"):
            if getattr(self, name) is not None:
                put(name, _path(f"policy {name}", getattr(self, name)))

    def _check_budget(self) -> None:
        put = functools.partial(msgspec.structs.force_setattr, self)
        if self.resident_bytes is not None:
            size = whole("policy resident_bytes", self.resident_bytes)
            put("resident_bytes", size)
            if size < 0:
                raise UsageError(
                    f"policy resident_bytes={size}", cause="it is a size", cure="0 is no budget"
                )
        if self.resident_percent is not None:
            percent = real("policy resident_percent", self.resident_percent)
            put("resident_percent", percent)
            if not 0 < percent <= 100 or self.resident_bytes is not None:
                raise UsageError(
                    f"policy resident_percent={percent}",
                    cause="it is more than 0 and at most 100, and stands in place of a size",
                    cure="leave resident_bytes out, or resident_percent",
                )

    def _check_keep(self) -> None:
        kept = real("policy share_keep_s", self.share_keep_s)
        if not 0 <= kept < _FOREVER:
            raise UsageError(
                f"policy share_keep_s={kept}",
                cause="it is a time in seconds, 0 or more",
                cure="leave it out to have the copy freed with its last user",
            )
        msgspec.structs.force_setattr(self, "share_keep_s", kept)

    @property
    def most_read(self) -> int:
        """Bytes of the largest read of the source, but for whole pages that are larger."""
        return max(self.window_bytes, self.chunk_bytes)


def _path(what: str, value: Any) -> str:
    try:
        return os.fsdecode(value)
    except TypeError:
        raise UsageError(f"{what}={value!r}", cause="it is no path", cure="name a file") from None


_FOREVER = 1e9  # seconds

_ANSWERS = {
    "fill_around": ("cost", "order", "block", "page"),
    "on_interrupt": ("poison", "wait"),
    "on_failure": ("poison", "kill"),
    "on_overdue": ("report", "poison", "kill"),
    "on_exit": ("complete", "poison"),
    "record": ("once", "always", "never"),
    "share": ("auto", "on", "off"),
}
_LEAST = {
    "window_bytes": 1,
    "chunk_bytes": 1,
    "bandwidth_bytes": 1,
    "fetches": 1,
    "retries": 0,
}
