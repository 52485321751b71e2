"""The processes of a pager, to be killed or counted by a test.

Between a death and what follows from it a role has nobody: `Pager.processes()` says 0 then, and
signal 9 to process 0 ends the whole process group, the test run with it.
"""

from __future__ import annotations

import os
import time

from userfault import Pager

_LOOKS = 5


def member(pager: Pager, role: str, *, but: int = 0, timeout_s: float = 60) -> int:
    """Who has the role, once somebody other than `but` has."""
    deadline = time.monotonic() + timeout_s
    while (pid := pager.processes()[role]) in (0, but):
        assert time.monotonic() < deadline, f"nobody is the {role}"
        time.sleep(0.002)
    return pid


def descriptors(pid: int) -> int:
    """How many descriptors the family of `pid` holds, without those that are open for a moment.

    Its processes share their table, and look at each other and at the client through /proc.  So one
    look is one too many now and then; what is held is in each of several.
    """
    least = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(_LOOKS - 1):
        time.sleep(0.001)
        least = min(least, len(os.listdir(f"/proc/{pid}/fd")))
    return least
