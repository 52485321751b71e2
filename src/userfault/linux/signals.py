"""Whether a signal would be acted upon by a process (proc_pid_status(5): SigIgn, SigBlk)."""

from __future__ import annotations

import contextlib
import os


def reaches(pid: int, number: int) -> bool | None:
    """Whether process `pid` does not ignore the signal, and some thread does not block it.

    None where that is not to be seen: no /proc, that of another pid namespace, a process that hides
    or has ended.
    """
    try:
        found = _masks(f"/proc/{pid}/status", number)
        if found is None:
            return None
        ignored, blocked = found
        if ignored or not blocked:
            return not ignored
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found = _masks(f"/proc/{pid}/task/{task}/status", number)
                if found is not None and not found[1]:
                    return True
    except OSError:
        return None
    return False


def _masks(path: str, number: int) -> tuple[bool, bool] | None:
    """Whether the process ignores the signal, and the thread blocks it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 8192)
    finally:
        os.close(fd)
    values = []
    for name in (b"SigIgn:", b"SigBlk:"):
        _, there, rest = text.partition(name)
        if not there:
            return None
        values.append(bool(int(rest.split(None, 1)[0], 16) >> (number - 1) & 1))
    return values[0], values[1]
