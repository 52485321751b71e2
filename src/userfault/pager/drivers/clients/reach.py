"""Keeping the life line's signal one that reaches the client: SIGBUS, or SIGKILL where it does not.

SIGBUS tells which line waited (`faulthandler`), but a program may ignore it, or block it in every
thread, and would sleep for ever once nobody serves it.  It may do so at any time, and nobody tells
us: so we look, when faults come and every now and then.  Who is left to look when the pager has
been killed?  Nobody: what the program changed within the last second is not known then.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable

from userfault.linux import pidfd
from userfault.linux.signals import reaches
from userfault.pager.drivers.mappings.served import Served

_BUSY_S = 0.1  # a look takes 30 µs
_IDLE_S = 1.0


class Reach:
    """Looks at the signals of the client whose pidfd is `client`.

    `due`: from when on, if anything happens.  `idle_s`: how long not to look at most, if nothing
    does; infinite where no life line is needed any more.
    """

    def __init__(self, client: int) -> None:
        self._client = client
        self.due = 0.0
        self.idle_s = _IDLE_S

    def take(self) -> None:
        """There is a new life line."""
        self.idle_s = _IDLE_S

    def look(self, now: float, served: Iterable[Served]) -> None:
        """It is due: something has happened, or nothing for `idle_s`."""
        self.due = now + _BUSY_S
        lines = [each.lifeline for each in served if not each.main.core.finished]
        self.idle_s = _IDLE_S if lines else math.inf
        if lines:
            pid = pidfd.pid_of(self._client)
            told = reaches(pid, signal.SIGBUS) if pid > 0 else None
            if told is not None:
                for line in lines:
                    line.ask_for(signal.SIGBUS if told else signal.SIGKILL)
