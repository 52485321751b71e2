"""Clients that have connected and not said yet what they want: how many, whose, how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.processes.watching import Timer


class Waits(Protocol):
    """Such a client's conversation."""

    client: Client
    deadline: float

    def late(self) -> None:
        """Its time is over."""


class Waiting:
    """All of them, the first to have come first.  `timers`: of the loop.

    `fewer`: called when there is room again.
    """

    def __init__(self, timers: dict[Timer, None], fewer: Callable[[], None]) -> None:
        self._timers = timers
        self._fewer = fewer
        self._held: dict[Waits, int] = {}  # with the process
        self._of: Counter[int] = Counter()  # by process

    def __len__(self) -> int:
        return len(self._held)

    def of(self, pid: int) -> int:
        """How many are one process's."""
        return self._of[pid]

    def add(self, one: Waits) -> None:
        """It came."""
        pid = self._held[one] = one.client.owner.pid
        self._of[pid] += 1
        self._timers[self] = None

    def discard(self, one: Waits) -> None:
        """It has said what it wants, or has gone."""
        pid = self._held.pop(one, None)
        if pid is not None:
            self._of[pid] -= 1
            if self._of[pid] <= 0:
                del self._of[pid]
            self._fewer()

    def next_time(self) -> float | None:
        """When the first of them is late."""
        first = next(iter(self._held), None)
        return first.deadline if first is not None else None

    def tick(self, now: float) -> None:
        """Let go of those that are."""
        while (first := next(iter(self._held), None)) is not None and first.deadline <= now:
            first.late()
            self.discard(first)
