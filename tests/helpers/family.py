"""The processes of a pager, to be killed by a test.

Between a death and what follows from it a role has nobody: `Pager.processes()` says 0 then, and
signal 9 to process 0 ends the whole process group, the test run with it.
"""

from __future__ import annotations

import time

from userfault import Pager


def member(pager: Pager, role: str, *, but: int = 0, timeout_s: float = 60) -> int:
    """Who has the role, once somebody other than `but` has."""
    deadline = time.monotonic() + timeout_s
    while (pid := pager.processes()[role]) in (0, but):
        assert time.monotonic() < deadline, f"nobody is the {role}"
        time.sleep(0.002)
    return pid
