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

from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.service import Service

_LOOK_S = 0.1
_PAUSE_S = 1.0
_SAY_S = 0.5  # a wait that ends sooner needs no advice
_MOST = 1 << 16


class Interrupts:
    """Looks at the logs of clients that wait, as long as `service` has contexts that are timed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._contexts = service.timed.contexts
        self._looked = 0.0
        self._counts: dict[Owner, _Count] = {}  # of clients that wait, or did a moment ago

    def next_time(self) -> float | None:
        """When to look again, as long as anybody may wait."""
        return self._looked + _LOOK_S if self._contexts else None

    def tick(self, now: float) -> None:
        """Look, if it is time."""
        if now < self._looked + _LOOK_S:
            return
        self._looked = now
        waiting: dict[Owner, list[Context]] = {}
        for each in self._contexts:
            if each.core.watch.any and each.served.signals >= 0:
                waiting.setdefault(each.served.owner, []).append(each)
        for owner, count in list(self._counts.items()):
            if now > count.waited + _PAUSE_S:  # what came when nobody waited does not count
                del self._counts[owner]
            elif owner not in waiting:
                count.look([], now)
        for owner, contexts in waiting.items():
            count = self._counts.setdefault(owner, _Count(owner))
            with self._service.costs(contexts[0].served):
                for each in count.look(contexts, now):
                    if each.closed:  # with one before it
                        continue
                    each.core.interrupted(now)
                    self._service.perform(each)


class _Count:
    """SIGINTs of one client.  `waited`: when a fault of it did last."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.waited = 0.0
        self._read = -1  # bytes of the log
        self._count = 0
        self._first = 0.0
        self._said = False  # that a second one ends the wait
        self._ended = False  # that it does

    def look(self, waiting: list[Context], now: float) -> list[Context]:
        """Read on in the log: of those that wait, whose wait is to be ended."""
        if waiting:
            self.waited = now
            self._note(waiting[0].served.signals, now)
        return self._answer(waiting, now) if self._count else []

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

    def _answer(self, waiting: list[Context], now: float) -> list[Context]:
        mine = [each for each in waiting if each.served.attach.policy.on_interrupt != "wait"]
        if self._count > 1:
            if mine and not self._ended:  # before: a terminal may be gone with the client
                self._ended = True
                self._owner.say(
                    "interrupted twice while a thread waits for a page: the wait is ended"
                )
            return mine
        if mine and not self._said and now > self._first + _SAY_S:
            self._said = True
            self._owner.say(
                "interrupted while a thread waits for a page; once more ends the wait by SIGBUS"
            )
        return []
