"""Contexts whose cores wait for a time, and children that may have ended."""

from __future__ import annotations

from collections.abc import Callable

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.watching import Timer
from userfault.pager.drivers.serving.acting import Acting

_CHECK_S = 1.0


class Timed:
    """Contexts with deadlines of reads, pauses, or faults that wait: each hears of the time."""

    def __init__(self, timers: dict[Timer, None], acting: Acting) -> None:
        self._timers = timers
        self._acting = acting
        self.contexts: dict[Context, None] = {}
        self._beside: list[Timer] = []
        self._first: float | None = None  # of their times, unless one may have changed
        self._changed = True

    def beside(self, timer: Timer) -> None:
        """`timer` too has something to wait for as long as any context has."""
        self._beside.append(timer)

    def add(self, context: Context) -> None:
        """Its core has something to wait for."""
        self._changed = True
        if context in self.contexts:
            return
        self.contexts[context] = None
        self._timers[self] = None
        for timer in self._beside:
            self._timers[timer] = None

    def discard(self, context: Context) -> None:
        """It is served no more."""
        self._changed = True
        self.contexts.pop(context, None)

    def next_time(self) -> float | None:
        """When the first of them is due."""
        if not self._changed:
            return self._first
        first = None
        for context in list(self.contexts):
            when = context.core.next_time()
            if when is None:
                del self.contexts[context]
            elif first is None or when < first:
                first = when
        self._first, self._changed = first, False
        return first

    def tick(self, now: float) -> None:
        """Time has come to `now`."""
        first = self.next_time()
        if first is None or now < first:
            return
        self._changed = True
        for context in list(self.contexts):
            when = context.core.next_time()
            if when is not None and when <= now:
                with self._acting.costs(context.served):
                    context.core.tick(now)
                    self._acting.perform(context)


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
