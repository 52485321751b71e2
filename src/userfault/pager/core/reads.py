"""Reading the source away from the fault path: in flight, in time, and what if it fails.

A failed read of one page is repeated within a bound, after pauses that grow; then the page is
poisoned.  A failed read of several pages says nothing about any of them: each is read alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from userfault.pager.core.actions import COPY, Abandon, Fetch, Hasten
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.pauses import FIRST_PAUSE_S, Pauses
from userfault.pager.core.states import FILLING, MISSING


class Reads:
    """The reads of one mapping's source that are under way, and those that wait for a place."""

    def __init__(self, ledger: Ledger, pauses: Pauses) -> None:
        self._ledger = ledger
        self._pauses = pauses
        self._fetches: dict[int, Fetch] = {}
        self._waiting: deque[tuple[int, int, bool]] = deque()  # fetches beyond the limit
        self._numbers = 0

    # --- asked for -------------------------------------------------------------------------------

    def fetch(self, page: int, count: int, demand: bool) -> None:
        """Read pages away from the fault path, now or when a place is free."""
        ledger = self._ledger
        for first, length in ledger.pages.runs(page, count, MISSING):
            ledger.pages.move(first, length, FILLING)
        ledger.put_off(page, count)
        if not self._has_place(demand):
            self._queue(page, count, demand)
            return
        self._numbers += 1
        fetch = Fetch(self._numbers, page, count, demand, float("inf"))
        self._fetches[fetch.number] = fetch
        ledger.counters.fetches += 1
        ledger.out.append(fetch)

    def hasten(self, page: int) -> None:
        """A thread comes to wait for a page that is read: its fetch goes before those in advance,
        and so does whatever follows if that fails."""
        fetch = self.of(page)
        if fetch is not None:
            if not fetch.demand:
                fetch.demand = True
                self._ledger.out.append(Hasten())
            return
        if self._pauses.hasten(page):
            return
        for at, (first, count, demand) in enumerate(self._waiting):
            if first <= page < first + count:
                if not demand:
                    del self._waiting[at]
                    self.fetch(first, count, True)
                return

    @property
    def full(self) -> bool:
        """Whether no place is left but the one kept free for a read that a thread waits for."""
        return not self._has_place(demand=False)

    @property
    def in_advance(self) -> bool:
        """Whether a read is under way that nobody waits for."""
        return bool(self._fetches) and any(not fetch.demand for fetch in self._fetches.values())

    # --- what became of them ---------------------------------------------------------------------

    def started(self, fetch: Fetch, now: float) -> None:
        """The driver has handed `fetch` to a worker: its deadline runs from here."""
        watch = self._ledger.watch
        fetch.deadline = now + self._ledger.plan.policy.deadline_s
        watch.stamp(now)  # or it would be asked for at once, for this alone
        fetch.waited = watch.age(fetch.page, fetch.count, now)
        self._ledger.timed = True

    def fetched(self, fetch: Fetch, data: memoryview) -> None:
        """The source answered with the bytes of all pages of `fetch`."""
        self._fetches.pop(fetch.number, None)
        self._start_waiting()
        if fetch.abandoned:
            return
        for page, count in self._ledger.pages.runs(fetch.page, fetch.count, FILLING):
            self._ledger.act(COPY, page, count, fetch.demand, data, fetch.page)

    def failed(self, fetch: Fetch, cause: str, now: float) -> None:
        """The source raised, or delivered something else than asked for."""
        self._fetches.pop(fetch.number, None)
        self._start_waiting()
        if not fetch.abandoned:
            self.unreadable(fetch.page, fetch.count, cause, now, demand=fetch.demand)

    def unreadable(self, page: int, count: int, cause: str, now: float, *, demand: bool) -> None:
        """Pages that are FILLING could not be read."""
        self._ledger.pages.revert(page, count)
        if count == 1:
            self.read_failed(page, cause, now, demand=demand)
        else:
            self.suspect(page, count)

    def read_failed(self, page: int, cause: str, now: float, *, demand: bool) -> None:
        """One page could not be read: repeat within the bound, then give it up.

        What no thread waits for stays behind what one does, also when it has failed.
        """
        ledger = self._ledger
        failures = ledger.failures[page] = ledger.failures.get(page, 0) + 1
        ledger.counters.source_failures += 1
        if ledger.pages.states[page] != MISSING:  # dropped meanwhile
            ledger.wake(page, 1)
        elif failures > ledger.plan.policy.retries:
            ledger.poison(page, 1, cause, "repair the source, then restore again")
        else:
            ledger.pages.move(page, 1, FILLING)
            self._pauses.add(now + FIRST_PAUSE_S * 4**failures, page, demand=demand)

    def suspect(self, page: int, count: int) -> None:
        """A read of several pages failed: which one is bad shows when each is read alone."""
        for suspect in range(page, page + count):
            self._ledger.failures.setdefault(suspect, 0)
        self._ledger.wake(page, count)

    def read_alone(self, fetch: Fetch, cause: str, now: float) -> None:
        """A read of several pages lasts too long: it has failed, so that each is read alone."""
        self._ledger.out.append(Abandon(fetch.number))
        self.failed(fetch, cause, now)
        fetch.abandoned = True

    # --- time ------------------------------------------------------------------------------------

    def next_time(self) -> float | None:
        """The first deadline; None where nothing is read."""
        if not self._fetches:
            return None
        if len(self._fetches) > 1:
            return min(fetch.deadline for fetch in self._fetches.values())
        (fetch,) = self._fetches.values()
        return fetch.deadline

    def tick(self, now: float) -> None:
        """Reads past their deadline have failed."""
        ledger = self._ledger
        for fetch in list(self._fetches.values()):
            if now >= fetch.deadline and not fetch.abandoned:
                ledger.counters.deadlines += 1
                self.read_alone(fetch, f"no answer within {ledger.plan.policy.deadline_s} s", now)

    # --- given up --------------------------------------------------------------------------------

    def stop_all(self) -> None:
        """Forget every read: what is not filled will be poisoned instead."""
        for fetch in self._fetches.values():
            fetch.abandoned = True
            self._ledger.out.append(Abandon(fetch.number))
        self._fetches.clear()
        self._waiting.clear()

    def stop(self, page: int) -> None:
        """`page` was given up: stop the reads that are for nothing else."""
        ledger = self._ledger
        for fetch in list(self._fetches.values()):
            pages = range(fetch.page, fetch.page + fetch.count)
            if page in pages and ledger.pages.find(FILLING, fetch.page, pages.stop) < 0:
                fetch.abandoned = True
                del self._fetches[fetch.number]
                ledger.out.append(Abandon(fetch.number))
                self._start_waiting()

    # --- asked about -----------------------------------------------------------------------------

    def of(self, page: int) -> Fetch | None:
        """The read under way that `page` is part of."""
        for fetch in self._fetches.values():
            if fetch.page <= page < fetch.page + fetch.count:
                return fetch
        return None

    def queued(self, page: int) -> bool:
        """Whether `page` is part of a read that waits for a place."""
        return any(first <= page < first + count for first, count, _ in self._waiting)

    def under_way(self) -> Iterator[tuple[int, int]]:
        """The runs of pages that are FILLING because they are read, or are to be."""
        for fetch in self._fetches.values():
            yield fetch.page, fetch.count
        for page, count, _ in self._waiting:
            yield page, count

    def _has_place(self, demand: bool) -> bool:
        """Whether a fetch can start.  One place stays free for those that a thread waits for.

        Of a source that is known in advance those come on top: stores answer many at once, and one
        that hangs must not keep the next thread waiting before its own read begins.
        """
        plan = self._ledger.plan
        if demand and plan.layout is not None:
            return True
        most = plan.policy.fetches
        return len(self._fetches) < (most if demand else max(most - 1, 1))

    def _queue(self, page: int, count: int, demand: bool) -> None:
        """A fetch that waits for a place: behind those that threads wait for, before the others."""
        at = len(self._waiting)
        if demand:
            at = next((at for at, each in enumerate(self._waiting) if not each[2]), at)
        self._waiting.insert(at, (page, count, demand))

    def _start_waiting(self) -> None:
        while self._waiting and self._has_place(self._waiting[0][2]):
            self.fetch(*self._waiting.popleft())
