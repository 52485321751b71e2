"""Reading the source away from the fault path: in flight, in time, and what if it fails.

A failed read of one page is repeated within a bound, after pauses that grow; then the page is
poisoned.  A failed read of several pages says nothing about any of them: each is read alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from userfault.pager.core.actions import (
    COPY,
    POISON,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Hasten,
    Inspect,
    Report,
    Wake,
)
from userfault.pager.core.filling import Filling
from userfault.pager.core.plan import Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import FILLING, MISSING, Pages

FIRST_PAUSE_S = 0.005


class Reading(Filling):
    """Adds the reads under way.  `deferred` holds fills that met EAGAIN."""

    def __init__(self, plan: Plan, pages: Pages, segments: Segments | None = None) -> None:
        super().__init__(plan, pages, segments)
        self.deferred: deque[Fill] = deque()
        self._fetches: dict[int, Fetch] = {}
        self._waiting: deque[tuple[int, int, bool]] = deque()  # fetches beyond the limit
        self._numbers = 0
        self._pauses: list[tuple[float, int, bool]] = []  # (when, page, demand): fetch again then

    def not_ready(self, fill: Fill) -> None:
        """The source cannot be copied from at once: fetch it away from the fault path."""
        self._fetch(fill.page, fill.count, fill.demand)

    def source_failed(self, fill: Fill, cause: str, now: float) -> None:
        """The source of `fill` could not be read where it lies (a file shrank, or was changed)."""
        if fill.page not in self._failures:
            self._failures[fill.page] = 0
        self._revert(fill.page, fill.count)
        if fill.count == 1:
            self._read_failed(fill.page, cause, now, demand=fill.demand)
        else:
            self._suspect(fill.page, fill.count)

    def started(self, fetch: Fetch, now: float) -> None:
        """The driver has handed `fetch` to a worker: its deadline runs from here."""
        fetch.deadline = now + self.plan.policy.deadline_s
        fetch.waited = self.watch.age(fetch.page, fetch.count, now)
        self.timed = True

    def fetched(self, fetch: Fetch, data: memoryview) -> None:
        """The source answered with the bytes of all pages of `fetch`."""
        self._fetches.pop(fetch.number, None)
        self._start_waiting()
        if fetch.abandoned:
            return
        for page, count in self.pages.runs(fetch.page, fetch.count, FILLING):
            self._act(COPY, page, count, fetch.demand, data, fetch.page)

    def fetch_failed(self, fetch: Fetch, cause: str, now: float) -> None:
        """The source raised, or delivered something else than asked for."""
        self._fetches.pop(fetch.number, None)
        self._start_waiting()
        if fetch.abandoned:
            return
        self._revert(fetch.page, fetch.count)
        if fetch.count == 1:
            self._read_failed(fetch.page, cause, now, demand=fetch.demand)
        else:
            self._suspect(fetch.page, fetch.count)

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest; None while nothing is timed."""
        times = [fetch.deadline for fetch in self._fetches.values()]
        times += [when for when, _, _ in self._pauses]
        watched = self.watch.next_time()
        if watched is not None:
            times.append(watched)
        self.timed = bool(times)
        return min(times, default=None)

    def leave(self) -> None:
        """This mapping is served no more (its process has ended)."""
        if self not in self._siblings:
            return
        self._siblings.remove(self)
        self.watch.clear()
        if self._siblings:  # what we had under way for them will not come: they ask again
            for page, count in self._under_way():
                self._revert(page, count)
                self._wake(page, count)

    def _under_way(self) -> Iterator[tuple[int, int]]:
        """The pages that are FILLING because of this mapping."""
        for action in (*self.out, *self.deferred):
            if isinstance(action, Fill) and action.page >= 0:
                yield action.page, action.count
            elif isinstance(action, Inspect):
                yield action.page, 1
        for fetch in self._fetches.values():
            yield fetch.page, fetch.count
        for page, count, _ in self._waiting:
            yield page, count
        for _, page, _ in self._pauses:
            yield page, 1

    def _stop_filling(self) -> None:
        """Forget whatever is under way to unfilled pages: they will be poisoned instead."""
        for fetch in self._fetches.values():
            fetch.abandoned = True
            self.out.append(Abandon(fetch.number))
        self._fetches.clear()
        self._waiting.clear()
        self._pauses.clear()
        deferred, self.deferred = self.deferred, deque()
        for fill in deferred:
            unfilled = [
                self.pages.find(state, fill.page, fill.page + fill.count)
                for state in (MISSING, FILLING)
                if fill.page >= 0
            ]
            if unfilled and max(unfilled) >= 0:
                self.out.append(Wake(fill.address, fill.count << self._shift))
            else:
                self.deferred.append(fill)

    def _fetch(self, page: int, count: int, demand: bool) -> None:
        """Read pages away from the fault path, now or when a place is free."""
        for first, length in self.pages.runs(page, count, MISSING):
            self.pages.move(first, length, FILLING)
        self._put_off(page, count)
        if not self._has_place(demand):
            self._queue(page, count, demand)
            return
        self._numbers += 1
        fetch = Fetch(self._numbers, page, count, demand, float("inf"))
        self._fetches[fetch.number] = fetch
        self.counters.fetches += 1
        self.out.append(fetch)

    def _hurry(self, page: int) -> None:
        """A thread comes to wait for a page being filled: its fetch goes before those in advance,
        and so does whatever follows if that fails."""
        self.watch.wait(page, joined=True)
        self.timed = True
        for core in self._siblings:
            core._hasten(page)

    def _hasten(self, page: int) -> None:
        for fetch in self._fetches.values():
            if fetch.page <= page < fetch.page + fetch.count:
                if not fetch.demand:
                    fetch.demand = True
                    self.out.append(Hasten())
                return
        for at, (when, paused, _) in enumerate(self._pauses):
            if paused == page:
                self._pauses[at] = when, page, True
                return
        for at, (first, count, demand) in enumerate(self._waiting):
            if first <= page < first + count:
                if not demand:
                    del self._waiting[at]
                    self._fetch(first, count, True)
                return

    def _has_place(self, demand: bool) -> bool:
        """Whether a fetch can start.  One place stays free for those that a thread waits for.

        Of a source that is known in advance those come on top: stores answer many at once, and one
        that hangs must not keep the next thread waiting before its own read begins.
        """
        most = self.plan.policy.fetches
        if demand and self.plan.layout is not None:
            return True
        return len(self._fetches) < (most if demand else max(most - 1, 1))

    def _queue(self, page: int, count: int, demand: bool) -> None:
        """A fetch that waits for a place: behind those that threads wait for, before the others."""
        at = len(self._waiting)
        if demand:
            at = next((at for at, each in enumerate(self._waiting) if not each[2]), at)
        self._waiting.insert(at, (page, count, demand))

    def _start_waiting(self) -> None:
        while self._waiting and self._has_place(self._waiting[0][2]):
            self._fetch(*self._waiting.popleft())

    def _read_failed(self, page: int, cause: str, now: float, *, demand: bool) -> None:
        """One page could not be read: repeat within the bound, then give it up.

        What no thread waits for stays behind what one does, also when it has failed.
        """
        failures = self._failures[page] = self._failures.get(page, 0) + 1
        self.counters.source_failures += 1
        if self.pages.states[page] != MISSING:  # dropped meanwhile
            self._wake(page, 1)
        elif failures > self.plan.policy.retries:
            self._poison(page, 1, cause, "repair the source, then restore again")
        else:
            self.pages.move(page, 1, FILLING)
            self._pause(now + FIRST_PAUSE_S * 4**failures, page, demand=demand)

    def _suspect(self, page: int, count: int) -> None:
        """A read of several pages failed: which one is bad shows when each is read alone."""
        for suspect in range(page, page + count):
            self._failures.setdefault(suspect, 0)
        self._wake(page, count)

    def _pause(self, until: float, page: int, *, demand: bool = True) -> None:
        self._pauses.append((until, page, demand))
        self._put_off(page, 1)
        self.timed = True

    def _poison(self, page: int, count: int, cause: str, cure: str, *, report: bool = True) -> None:
        """Give pages up: their accesses raise SIGBUS from now on."""
        policy = self.plan.policy
        if report:
            self.out.append(Report(page, cause, cure))
        if (report and policy.on_failure == "kill") or not self.plan.has_poison:
            self.out.append(EndClient(f"page {page} of lazily filled memory: {cause} ({cure})"))
            return
        for first, length in self.pages.runs(page, count, MISSING):
            self.pages.move(first, length, FILLING)
        for first, length in self.pages.runs(page, count, FILLING):
            self._act(POISON, first, length)
