"""Which descriptors this process has open, how many it may, and keeping some of them for later.

RLIMIT_NOFILE is each process's own, also where processes share one table (getrlimit(2), clone(2)
with CLONE_FILES): so a process that lowers its own limit leaves the places above to the others.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

RESERVE = 12
_GAP = 1024  # numbers, which the kernel gives out from the lowest on


def allow_all() -> None:
    """As many as this user may have."""
    _set(0)


def keep_reserve() -> None:
    """All but the last `RESERVE`."""
    _set(RESERVE)


@contextlib.contextmanager
def reserve_open() -> Iterator[None]:
    """Within it the reserve may be used."""
    allow_all()
    try:
        yield
    finally:
        keep_reserve()


def _set(below: int) -> None:
    """So many fewer than the hard limit, where that is allowed."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard - below, 0), hard))


def open_descriptors(beyond: int) -> set[int]:
    """Those of our table; without /proc, those up to a long gap after number `beyond`."""
    try:
        # The descriptor of the listing itself is in it, and its number will soon be another's.
        candidates = list(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        candidates = list(range(beyond + _GAP))
    return set(filter(_is_open, candidates))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
