"""The watchdog's memory: which faults wait, since when, and which have waited for too long.

A fault that is filled at once never comes here: only where a decision puts it off (a read of the
source, EAGAIN, a pause, a page that is being filled for another thread) is its page noted.  There
is no clock: a wait is stamped by the next `stamp`, which the driver is asked for at once (see
`next_time`), so its age counts from there.

A wait is a page's, not a thread's: it begins with the first fault that had to wait and ends when
the page is settled.  Threads that were woken meanwhile, because a read failed say, and that fault
again have not waited for less.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_NOW = 0.0  # earlier than any time of a monotonic clock that we are given


class Wait(msgspec.Struct):
    """A page that is waited for.  `since`: a time, once stamped.  `faults`: how many asked."""

    since: float = 0.0
    faults: int = 1


class Watch:
    """The waits of one mapping, by page (below zero: minus an address that is none of our pages).

    `deadline_s`: the age from which on a wait is `due`; None: none ever is.  `any` says
    whether there are waits at all: what a fault that is filled at once has to look at.
    """

    __slots__ = ("_told", "_waits", "any", "deadline_s", "ends", "fresh")

    def __init__(self, deadline_s: float | None) -> None:
        self.deadline_s = deadline_s
        self.any = False
        self._waits: dict[int, Wait] = {}  # oldest first, as all have the same deadline
        self._told: dict[int, Wait] = {}  # reported, and waiting still
        self.fresh: list[Wait] = []  # not stamped yet
        self.ends: list[float] | None = None  # since when those waited that ended, if it is wanted

    @property
    def overdue(self) -> int:
        """How many of those reported wait still."""
        return len(self._told)

    def pages(self) -> list[int]:
        """The pages that are waited for."""
        return [*self._waits, *self._told]

    def wait(self, page: int, *, joined: bool = False) -> None:
        """A fault on `page` is not answered at once.  `joined`: one more, others wait already."""
        held = self._waits.get(page) or self._told.get(page)
        if held is None:
            held = self._waits[page] = Wait()
            if self.deadline_s is not None:
                self.fresh.append(held)
            self.any = True
        elif joined:
            held.faults += 1

    def served(self, page: int, count: int) -> None:
        """Pages are settled: nobody waits for them any more."""
        for waits in (self._waits, self._told):
            if count <= len(waits):
                over = [each for each in range(page, page + count) if each in waits]
            else:
                over = [each for each in waits if page <= each < page + count]
            for each in over:
                wait = waits.pop(each)
                if self.ends is not None:
                    self.ends += [wait.since] * wait.faults
        self.any = bool(self._waits or self._told)

    def age(self, page: int, count: int, now: float) -> float:
        """Seconds for which one of these pages is waited for; 0 where none is."""
        held = [
            wait.since
            for waits in (self._waits, self._told)
            for each, wait in waits.items()
            if page <= each < page + count and wait.since
        ]
        return now - min(held, default=now)

    def oldest(self, now: float) -> float:
        """Seconds for which somebody has waited for longest; 0 where nobody waits."""
        held = [wait.since for waits in (self._waits, self._told) for wait in waits.values()]
        return now - min(filter(None, held), default=now)

    def clear(self) -> None:
        """Nobody waits any more: the process has ended."""
        self._waits.clear()
        self._told.clear()
        self.fresh.clear()
        self.any = False

    def next_time(self) -> float | None:
        """When to look again; at once where a wait has no time yet, None where nobody waits."""
        if self.deadline_s is None:
            return None
        if self.fresh:
            return _NOW
        for wait in self._waits.values():
            return wait.since + self.deadline_s
        return None

    def stamp(self, now: float) -> None:
        """The waits noted since the last time began about now."""
        for wait in self.fresh:
            wait.since = now
        self.fresh.clear()

    def due(self, now: float) -> Iterator[tuple[int, Wait]]:
        """The waits that are too old and not reported: answer each by `told` or `served`, or leave
        it as it is, to be asked about again."""
        if self.deadline_s is None:
            return
        old = []
        for page, wait in self._waits.items():
            if wait.since + self.deadline_s > now:
                break
            old.append((page, wait))
        yield from old

    def told(self, page: int) -> None:
        """The wait for `page` was reported: once is enough."""
        self._told[page] = self._waits.pop(page)

    def again(self, page: int) -> None:
        """Nothing could be done about the wait: it is due once more when as long has passed."""
        held = self._told.pop(page, None)
        if held is not None:
            self._waits[page] = held
            if self.deadline_s is not None:
                self.fresh.append(held)
