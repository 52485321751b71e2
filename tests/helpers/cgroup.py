"""A control group of a test's own, in either version (cgroups(7)); needs root."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TOP = Path("/sys/fs/cgroup")
_NAMES = {  # the file with the limit, in version 2 and in version 1
    "pids": ("pids.max", "pids.max"),
    "memory": ("memory.max", "memory.limit_in_bytes"),
}
_EMPTY_S = 10.0


@contextlib.contextmanager
def limited(controller: str, value: int) -> Iterator[Path]:
    """A group in which `controller` has the limit `value`; write a pid to the file it gives.

    Raises OSError where none can be made.
    """
    second = _second()
    top = _TOP if second else _TOP / controller
    if second:
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
    group = top / f"userfault-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        (group / _NAMES[controller][0 if second else 1]).write_text(str(value))
        if controller == "memory" and second:
            (group / "memory.swap.max").write_text("0")
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + _EMPTY_S
        while True:  # who was in it has ended, and leaves it in a moment
            try:
                group.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def leave(controller: str) -> None:
    """Have this process be in none of them."""
    top = _TOP if _second() else _TOP / controller
    (top / "cgroup.procs").write_text(str(os.getpid()))


def _second() -> bool:
    return (_TOP / "cgroup.controllers").exists()


def possible(controller: str) -> bool:
    """Whether this test may make one."""
    try:
        with limited(controller, 1 << 22):
            return True
    except OSError:
        return False
