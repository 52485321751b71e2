"""How many descriptors this process may open, and keeping some of them for later.

RLIMIT_NOFILE is each process's own, also where processes share one table (getrlimit(2), clone(2)
with CLONE_FILES): so a process that lowers its own limit leaves the places above to the others.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

RESERVE = 12


def allow_all() -> None:
    """As many as this user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _set(hard, hard)


def keep_reserve() -> None:
    """All but the last `RESERVE`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _set(max(hard - RESERVE, 0), hard)


@contextlib.contextmanager
def reserve_open() -> Iterator[None]:
    """Within it the reserve may be used."""
    allow_all()
    try:
        yield
    finally:
        keep_reserve()


def _set(soft: int, hard: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
