"""Keeping the life line's signal one that reaches the client: SIGBUS, or SIGKILL where it does not.

SIGBUS tells which line waited (`faulthandler`), but a program may ignore it, or block it in every
thread, and would sleep for ever once nobody serves it.  It may do so at any time, and nobody tells
us: so we look, when faults come and every now and then.  Who is left to look when the pager has
been killed?  Nobody: what the program changed within the last second is not known then.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable

from userfault.linux import pidfd
from userfault.linux.signals import reaches
from userfault.pager.drivers.served import Served

_BUSY_S = 0.1  # a look takes 30 µs
_IDLE_S = 1.0

_clock = time.monotonic


class Reach:
    """Looks at the signals of the client whose pidfd is `client`."""

    def __init__(self, client: int) -> None:
        self._client = client
        self._looked = 0.0
        self._needed = True

    def take(self) -> None:
        """There is a new life line."""
        self._needed = True

    def next_time(self) -> float | None:
        """When to look though nothing happens; None where no life line is needed any more."""
        return self._looked + _IDLE_S if self._needed else None

    def look(self, served: Iterable[Served]) -> None:
        """Something has happened, or it is time: look, unless we have just done so."""
        now = _clock()
        if now - self._looked < _BUSY_S:
            return
        self._looked = now
        lines = [each.lifeline for each in served if not each.main.core.finished]
        self._needed = bool(lines)
        if lines:
            pid = pidfd.pid_of(self._client)
            told = reaches(pid, signal.SIGBUS) if pid > 0 else None
            if told is not None:
                for line in lines:
                    line.ask_for(signal.SIGBUS if told else signal.SIGKILL)
