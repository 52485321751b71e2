"""What a test must not leave behind: descriptors, threads, faulting tasks."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

# A process has one for good (api/interrupts.py).
_STAYS = "/memfd:userfault-signals (deleted)"
# Threads of tasks are daemons that sleep until the interpreter goes; they are allowed to stay.
_MAY_STAY = "userfault-task"


def descriptors() -> dict[int, str]:
    """Open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def opened_since(before: dict[int, str]) -> dict[int, str]:
    """Those that were not there before, and are to go."""
    return {
        fd: what for fd, what in descriptors().items() if before.get(fd) != what and what != _STAYS
    }


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != _MAY_STAY}


def _in_faults() -> list[str]:
    """Threads of this process that wait for a userfault or for one of its events."""
    waits = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/wchan") as file:
            place = file.read()
            if "userfault" in place:
                waits.append(place)
    return waits


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where the body leaves descriptors, threads or faulting tasks behind."""
    before, threads = descriptors(), _threads()
    yield
    left = opened_since(before)
    if left:
        gc.collect()  # slow, and what goes with its object is no leak
        left = opened_since(before)
    assert not left, f"descriptors left open: {left}"
    more = [thread.name for thread in _threads() - threads]
    assert not more, f"threads left running: {more}"
    assert not _in_faults(), f"threads left waiting: {_in_faults()}"
