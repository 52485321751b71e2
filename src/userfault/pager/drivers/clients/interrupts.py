"""Ctrl-C for a client whose thread waits for a page: the second one ends the wait.

The first SIGINT is Python's, which acts on it when the C code that touches the memory returns; that
may be long if the source is slow.  A second one, while pages are still waited for, gives those
pages up: the thread gets SIGBUS, and `faulthandler` tells the line that waited.  By policy
(`on_interrupt="wait"`) nothing is done.

What the client was sent is in a log (`api/interrupts.py`).  It is looked at while faults wait, and
then ten times a second.  A SIGINT counts while pages are waited for, or were a second ago; a second
without a wait, and Python has acted on it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.say import say

_LOOK_S = 0.1
_PAUSE_S = 1.0
_SAY_S = 0.5  # a wait that ends sooner needs no advice
_MOST = 1 << 16

_clock = time.monotonic


class Interrupts:
    """Counts SIGINTs; `perform` does what a core asks for."""

    def __init__(self, perform: Callable[[Context], None]) -> None:
        self._perform = perform
        self._looked = 0.0
        self._read = -1  # bytes of the log
        self._waited = 0.0  # when somebody did last
        self._count = 0
        self._first = 0.0
        self._said = False  # that a second one ends the wait
        self._ended = False  # that it does

    def next_time(self) -> float:
        """When to look again, as long as anybody waits."""
        return self._looked + _LOOK_S

    def look(self, contexts: Iterable[Context]) -> None:
        """`contexts`: those that somebody may wait in."""
        now = _clock()
        if now < self._looked + _LOOK_S:
            return
        self._looked = now
        waiting = [each for each in contexts if each.core.watch.any and each.served.signals >= 0]
        if now > self._waited + _PAUSE_S:
            self._count, self._read = 0, -1  # what came when nobody waited does not count
        if waiting:
            self._waited = now
        for each in waiting[:1]:
            self._note(each.served.signals, now)
        if self._count:
            self._answer(waiting, now)

    def _note(self, log: int, now: float) -> None:
        """Read on in the log."""
        size = os.fstat(log).st_size
        if self._read < 0:
            self._read = size
        if size < self._read:  # it was emptied
            self._read = 0
        came = os.pread(log, _MOST, self._read)
        self._read += len(came)
        found = came.count(signal.SIGINT)
        if found and not self._count:
            self._first, self._said, self._ended = now, False, False
        self._count += found

    def _answer(self, waiting: list[Context], now: float) -> None:
        mine = [each for each in waiting if each.served.attach.policy.on_interrupt != "wait"]
        if self._count > 1:
            if mine and not self._ended:  # before: a terminal may be gone with the client
                self._ended = True
                say("interrupted twice while a thread waits for a page: the wait is ended")
            for each in mine:
                each.core.interrupted(now)
                self._perform(each)
        elif mine and not self._said and now > self._first + _SAY_S:
            self._said = True
            say("interrupted while a thread waits for a page; once more ends the wait by SIGBUS")
