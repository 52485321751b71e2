"""Contexts whose cores wait for a time, and children that may have ended."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.watching import Timer
from userfault.pager.drivers.serving.acting import Acting

_CHECK_S = 1.0


class Timed:
    """Contexts with deadlines of reads, pauses, or faults that wait: each hears of the time.

    `contexts`: with the time that each has said last.  What is in the heap may be another: an
    earlier one, which has passed for nothing then, or one that does not count any more.
    """

    def __init__(self, timers: dict[Timer, None], acting: Acting) -> None:
        self._timers = timers
        self._acting = acting
        self.contexts: dict[Context, float] = {}
        self._heap: list[tuple[float, int, Context]] = []
        self._serial = 0  # so that contexts are never compared
        self._beside: list[Timer] = []

    def beside(self, timer: Timer) -> None:
        """`timer` too has something to wait for as long as any context has."""
        self._beside.append(timer)

    def add(self, context: Context) -> None:
        """Its core has something to wait for, or another time to do so."""
        when = context.core.next_time()
        if when is None:
            self.contexts.pop(context, None)
            return
        known = self.contexts.get(context)
        self.contexts[context] = when
        if known is None or when < known:
            self._push(context, when)
        if known is None:
            self._timers[self] = None
            for timer in self._beside:
                self._timers[timer] = None

    def discard(self, context: Context) -> None:
        """It is served no more."""
        self.contexts.pop(context, None)

    def next_time(self) -> float | None:
        """When the first of them is due."""
        heap = self._heap
        while heap:
            when, _, context = heap[0]
            said = self.contexts.get(context)
            if said == when:
                return when
            heapq.heappop(heap)
            if said is not None and when < said:
                self._push(context, said)
        return None

    def tick(self, now: float) -> None:
        """Time has come to `now`."""
        due = []
        while (when := self.next_time()) is not None and when <= now:
            due.append(heapq.heappop(self._heap)[2])
            del self.contexts[due[-1]]
        for context in due:  # each once, whatever it says then
            if context.closed:  # what was done for one before it has shown that it has ended
                continue
            with self._acting.costs(context.served):
                said = context.core.next_time()
                if said is not None and said <= now:
                    context.core.tick(now)
                    self._acting.perform(context)
            if not context.closed:
                self.add(context)

    def _push(self, context: Context, when: float) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, context))


class Children:
    """Children of forks have no pidfd here: now and then is asked whether their memory exists."""

    def __init__(self, timers: dict[Timer, None], ended: Callable[[Context], None]) -> None:
        self._timers = timers
        self._ended = ended
        self._contexts: dict[Context, None] = {}
        self._checked = 0.0

    def add(self, context: Context) -> None:
        """The context of a child."""
        self._contexts[context] = None
        self._timers[self] = None

    def discard(self, context: Context) -> None:
        """It is served no more."""
        self._contexts.pop(context, None)

    def next_time(self) -> float | None:
        """When to ask again."""
        return self._checked + _CHECK_S if self._contexts else None

    def tick(self, now: float) -> None:
        """Ask, if it is time."""
        if now < self._checked + _CHECK_S:  # as `next_time` says it, to the last bit
            return
        self._checked = now
        for context in list(self._contexts):
            if context.uffd.owner_gone():
                self._ended(context)
