"""The pager's processes, seen from outside: killing them, their memory, whether any is left."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

from userfault.linux import pidfd

ROLES = ("worker", "supervisor")
_DYING_S = 10.0


class Killer:
    """Kills worker and supervisor in turn, each a random time after it was seen.

    It leaves at least one other process alive: all of them dead is the documented end.
    """

    def __init__(self, seed: int, longest_pause_s: float, mark: str) -> None:
        self._mark = mark.encode()  # in the environment of its processes
        self._random = random.Random(seed)
        self._pause_s = longest_pause_s
        self._victim = -1  # a pidfd
        self._aim = 0  # its process id
        self._killed: dict[int, float] = {}  # who is dying, or dead: when
        self._due = 0.0
        self.waits_since = 0.0  # for a victim that can be killed
        self.kills: list[tuple[int, str]] = []  # when, in ns of CLOCK_MONOTONIC, and whom

    @property
    def role(self) -> str:
        """Whose turn it is."""
        return ROLES[len(self.kills) % len(ROLES)]

    @property
    def armed(self) -> bool:
        """Whether a victim was chosen."""
        return self._victim >= 0

    def choose(self, processes: dict[str, int]) -> None:
        """Take aim, if the one whose turn it is and another one run."""
        victim = processes[self.role]
        others = [pid for pid in processes.values() if pid != victim and self._runs(pid)]
        self.waits_since = self.waits_since or time.monotonic()
        if not others or not self._runs(victim):
            return
        with contextlib.suppress(OSError):
            self._victim = os.pidfd_open(victim)
            self._aim = victim
            self.waits_since = 0.0
            self._due = time.monotonic() + self._random.random() * self._pause_s

    def fire(self) -> bool:
        """Kill when the time has come."""
        if not self.armed or time.monotonic() < self._due:
            return False
        victim, self._victim = self._victim, -1
        when = time.monotonic_ns()
        running = not pidfd.ended(victim)
        pidfd.kill(victim)
        os.close(victim)
        self._killed[self._aim] = time.monotonic()
        if running:
            self.kills.append((when, self.role))
        return running

    def _runs(self, pid: int) -> bool:
        """Whether a member runs (one that has ended and was not waited for does not).

        Process ids are used again: another process may have that of a member who is dead.  And who
        was killed a moment ago has not ended yet, on a busy machine.
        """
        if not pid or time.monotonic() < self._killed.get(pid, 0.0) + _DYING_S:
            return False
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            ours = self._mark in Path(f"/proc/{pid}/environ").read_bytes()
            return ours and not pidfd.ended(process)
        except OSError:
            return False
        finally:
            os.close(process)

    def close(self) -> None:
        """Spare whoever was chosen."""
        if self.armed:
            os.close(self._victim)
            self._victim = -1


def marked(mark: str) -> list[int]:
    """Processes with `mark` in their environment: everything that the client started."""
    found = []
    text = mark.encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if text in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
    return found


def whereabouts(mark: str) -> list[str]:
    """Of each thread of `marked`: where in the kernel it sleeps."""
    found = []
    for pid in marked(mark):
        for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda each: int(each.name)):
            with contextlib.suppress(OSError):
                status = (task / "stat").read_text()
                state = status[status.rindex(")") + 2]
                parent = status[status.rindex(")") + 4 :].split()[0]
                place = (task / "wchan").read_text()
                found.append(f"process {pid} of {parent}, thread {task.name}: {state} in {place}")
    return found


def wait_gone(mark: str, timeout_s: float) -> list[int]:
    """Who of `marked` is left after at most `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
