"""The decisions for one mapping: which page is filled from where, when, and what if it fails.

Events and results go in by the methods, actions come out in `out`; nothing here does I/O.

The rules that keep bytes right (the essay with the interleavings is docs/pager.md):

* A page whose state is MISSING is the source's; every other page is not the source's any more.
  So a missing fault on a page marked PRESENT, CACHED or REMOVED means that it was dropped (by
  madvise, or without any event by punch-hole or truncate): it reads zero.
* REMOVE is raised before the pages go and fills fail with EAGAIN until they are gone; so a fill
  that meets EAGAIN is put aside, events are read, and only what is still FILLING is filled.
* Whenever a fill is abandoned its range is woken: a waiter faults again and is decided anew.
  That is the one rule by which no thread is lost.
* Every fill wakes all waiters of its range, so faults on pages that are FILLING need no action,
  nor do faults read in the same batch as the fault whose fill covered them.
"""

from __future__ import annotations

from collections import deque

from userfault.pager.core.actions import CONTINUE, COPY, POISON, ZERO, Abandon, Fill, Wake
from userfault.pager.core.advance import Advance
from userfault.pager.core.overdue import Overseeing
from userfault.pager.core.plan import Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import CACHED, FILLING, MISSING, POISONED, Pages
from userfault.pager.core.window import Window
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR

# After so many background fills without a fault (16 MiB at the default size, some 5 ms) they are
# made larger: a fault that comes then waits up to 0.3 ms, once.
_QUIET_CHUNKS = 64
_QUIET_FACTOR = 4


class MappingCore(Overseeing):
    """One mapping's decisions.  `plan` says what it is, `pages` where its states are.

    `out` holds the actions not yet performed.  `deferred` holds fills that met EAGAIN; the driver
    reads events and calls `retry()`.  `finished` is set once every page is settled.
    """

    def __init__(self, plan: Plan, pages: Pages, segments: Segments | None = None) -> None:
        super().__init__(plan, pages, segments)
        self.background = plan.policy.background
        self.given_up = ""  # the cause, once everything was to be given up
        self._window = Window(plan.window_pages)
        self._quiet = 0  # background fills since the last fault
        self._wanted: deque[tuple[int, int]] = deque()  # prefetch: runs of pages
        self._advance = Advance(plan.layout, pages) if plan.layout else None

    def batch(self) -> None:
        """A new batch of events was read: what was filled before it has woken its waiters."""
        if self._filled:
            self._filled.clear()

    def fault(self, address: int, flags: int) -> None:
        """A thread waits at `address`."""
        self.counters.faults += 1
        self._quiet = 0
        page = (address - self._base) >> self._shift
        if not 0 <= page < self._straight:
            page = self.segments.page_of(address)
            if page < 0:
                self._unowned(address, flags)
                return
        self._asked = page
        for start, end in self._filled:
            if start <= page < end:
                self.counters.duplicates += 1
                return
        state = self.pages.states[page]
        if flags & _MINOR:
            self._minor(page, state)
        elif state == MISSING:
            self._fill_around(page)
        elif state == FILLING:
            self._hurry(page)
        elif state == POISONED:
            self._act(POISON, page, 1)
        else:
            self.counters.dropped += 1
            self._act(ZERO, page, 1)

    def remove(self, start: int, end: int) -> None:
        """madvise is about to drop addresses [start, end): from now on they read zero."""
        for page, count in self.segments.pages_in(start, end):
            self._drop(page, count)

    def unmap(self, start: int, end: int) -> None:
        """Addresses [start, end) are gone.  Shared pages stay for whoever else maps them."""
        gone = self.segments.unmap(start, end)
        self._straight = 0
        self.out.append(Wake(start, end - start))  # who waits there: no fill will come by any more
        for page, count in gone:
            self._forsake(page, count)

    def remap(self, old: int, new: int, length: int) -> None:
        """mremap moved addresses: fills under way for the old place are done anew at the new."""
        self.segments.remap(old, new, length)
        self._straight = 0
        for fill in self.deferred:
            self._abandon(fill)
        self.deferred.clear()
        self.out.append(Wake(old, length))  # who waits there: bytes under way go to the new place
        self._finish_if_settled()

    def fork(self, pages: Pages | None = None) -> MappingCore:
        """The core that serves the child: with its own `pages`, or sharing ours (shared memory)."""
        child = MappingCore(self.plan, pages or self.pages, self.segments.copy())
        child.background = False
        child._straight = self._straight
        if pages is None:
            child.given_up = self.given_up
            child._siblings = self._siblings
            self._siblings.append(child)
        else:
            for page, count in pages.runs(0, pages.count, FILLING):
                pages.move(page, count, MISSING)  # our fetch will not reach the child
            child._failures = dict.fromkeys(self._failures, 0)
        child._finish_if_settled()
        return child

    def want(self, page: int, count: int) -> None:
        """Fill these pages soon, after the faults that wait."""
        self._wanted.append((page, count))

    def complete(self) -> None:
        """Fill everything, also where the policy has no background fill."""
        self.background = True
        self._finish_if_settled()

    def give_up(self, cause: str, cure: str) -> None:
        """Poison every page that is not filled (or end the client, where there is no poison)."""
        self.background = False
        self.given_up = cause
        self._wanted.clear()
        if self._advance is not None:
            self._advance.streams.clear()
        for core in self._siblings:
            core.given_up = cause
            core._stop_filling()
        for state in (FILLING, MISSING):  # in this order: what is poisoned is FILLING until then
            for page, count in self.pages.runs(0, self.pages.count, state):
                self._poison(page, count, cause, cure, report=False)

    @property
    def eager(self) -> bool:
        """Whether `idle_work` may find something to do."""
        if self.finished:
            return False
        streams = self._advance is not None and bool(self._advance.streams)
        return self.background or bool(self._wanted) or streams

    def idle_work(self) -> int:
        """One piece of background work into `out`: of how many pages (0: there is none now)."""
        if self.finished or self.out or self.deferred:
            return 0
        run = self._next_wanted() or self._next_background()
        if run is None:
            return self._advance is not None and self._advance.more
        page, count = run
        if self.pages.states[page] == CACHED:
            self._act(CONTINUE, page, count, demand=False)
        else:
            self._start(page, count, demand=False)
        return count

    def disturb(self) -> None:
        """Faults came, of another mapping: small pieces again."""
        self._quiet = 0

    def tick(self, now: float) -> None:
        """Time has come to `now`: fetches past their deadline have failed, pauses are over, and
        faults may have waited for too long."""
        for fetch in list(self._fetches.values()):
            if now >= fetch.deadline and not fetch.abandoned:
                self.counters.deadlines += 1
                self.out.append(Abandon(fetch.number))
                self.fetch_failed(fetch, f"no answer within {self.plan.policy.deadline_s} s", now)
                fetch.abandoned = True
        due = [each for each in self._pauses if each[0] <= now]
        self._pauses = [each for each in self._pauses if each[0] > now]
        for _, page, demand in due:
            if self.pages.states[page] == FILLING:
                self.pages.move(page, 1, MISSING)
                self._start(page, 1, demand=demand)
        self._oversee(now)

    def _fill_around(self, page: int) -> None:
        """A missing fault on a page of the source: choose the window and start it."""
        if page in self._failures:
            self._start(page, 1, demand=True)
            return
        window = self._window.at(page)
        if self._advance is not None:
            self._fill_stretch(page, window, self._advance)
            return
        count = 1
        if window < 0:
            count = self.pages.run_down(page, -window, MISSING)
            self.counters.around += count - 1
            page -= count - 1
            self._window.ended(page, window)
        else:
            if window > 1:
                count = self.pages.run(page, window, MISSING)
                self.counters.around += count - 1
            end = page + count
            if end < self.pages.count and self.pages.states[end] != MISSING:
                end = self._next_missing(end)
            self._window.ended(end - 1, window)
        self._start(page, count, demand=True)

    def _fill_stretch(self, page: int, window: int, advance: Advance) -> None:
        """A missing fault on a page whose company is known: all that comes with it is filled with
        it.  What the window has beyond that is read ahead, while the thread runs on."""
        low, high, zeros = advance.at(page)
        if window < 0:
            first, last = page + 1 - self.pages.run_down(page, -window, MISSING), page + 1
        else:
            first, last = page, page + self.pages.run(page, window, MISSING)
        if zeros:
            low, high = max(low, first), min(high, last)
        else:
            most = self.plan.window_pages
            low = page + 1 - self.pages.run_down(page, min(page + 1 - low, most), MISSING)
            high = page + self.pages.run(page, min(high - page, most), MISSING)
            if self.background:
                advance.met(page)
        if first < low:
            advance.streams.append((first, low))
        elif last > high:
            advance.streams.append((high, last))
        if window < 0:
            self._window.ended(min(first, low), window)
        else:
            end = max(last, high)
            if end < self.pages.count and self.pages.states[end] != MISSING:
                end = self._next_missing(end)
            self._window.ended(end - 1, window)
        self.counters.around += high - low - 1
        self._start(low, high - low, demand=True)

    def _next_missing(self, page: int) -> int:
        """Where a stream that came to `page` will fault next: what is filled raises no fault."""
        found = self.pages.find(MISSING, page, page + 8 * self._window.limit)
        return page if found < 0 else found

    def _start(self, page: int, count: int, *, demand: bool) -> None:
        """Fill MISSING pages from the source, at once or by a fetch."""
        if self.given_up:  # a fill that was to poison them was abandoned
            self._poison(page, count, self.given_up, "", report=False)
        elif self.plan.source_zero:
            self.pages.move(page, count, FILLING)
            self._act(ZERO, page, count, demand)
        elif self.plan.source_fetches:
            self._fetch(page, count, demand)
        elif self._advance is not None:
            self._start_known(page, count, demand, self._advance)
        else:
            self.pages.move(page, count, FILLING)
            self._act(COPY, page, count, demand)

    def _start_known(self, page: int, count: int, demand: bool, advance: Advance) -> None:
        """Fill MISSING pages, those that are known to be zeros without the source."""
        end = page + count
        while page < end:
            _, high, zeros = advance.at(page)
            count = min(high, end) - page
            self.pages.move(page, count, FILLING)
            self._act(ZERO if zeros else COPY, page, count, demand)
            page += count

    def _minor(self, page: int, state: int) -> None:
        """A fault on a page that is in the page cache and not mapped here."""
        self.counters.minor += 1
        if state == CACHED:
            self._continue_around(page)
        elif state == POISONED:
            self._act(POISON, page, 1)
        elif state in (MISSING, FILLING) and not self.plan.shared:
            # Whoever put it into the file, this mapping has its own pages: COPY passes it by.
            self._fill_around(page) if state == MISSING else self._hurry(page)
        elif state == FILLING:
            self._hurry(page)
        else:  # PRESENT is ours; else the client wrote it, by another mapping
            self.counters.foreign += state == MISSING
            self._act(CONTINUE, page, 1)

    def _continue_around(self, page: int) -> None:
        """A minor fault on prepared memory: map a window of pages that are complete."""
        window = self._window.at(page)
        if window < 0:
            count = self.pages.run_down(page, -window, CACHED)
            page -= count - 1
            self._window.ended(page, window)
        else:
            count = self.pages.run(page, window, CACHED)
            self._window.ended(page + count - 1, window)
        self.counters.around += count - 1
        self._act(CONTINUE, page, count)

    def _unowned(self, address: int, flags: int) -> None:
        """A fault beyond what we were given: memory that mremap grew, which reads zero.

        (Or an old place that MREMAP_DONTUNMAP left registered; its file may have the page.)
        """
        self.counters.unowned += 1
        start = address >> self._shift << self._shift
        self.out.append(Fill(CONTINUE if flags & _MINOR else ZERO, -1, 1, start))

    def _next_wanted(self) -> tuple[int, int] | None:
        if self._advance is not None:
            run = self._advance.stream()
            if run is not None:
                start, end = run
                return start, self._chunk(start, end)
        while self._wanted:
            page, count = self._wanted.popleft()
            start = self.pages.find(MISSING, page, page + count)
            if start >= 0:
                length = self._chunk(start, self._alike(start, page + count))
                self._wanted.appendleft((start + length, page + count - start - length))
                return start, length
        return None

    def _next_background(self) -> tuple[int, int] | None:
        if not self.background:
            return None
        full = not self._has_place(demand=False)
        if self._advance is not None:
            return self._next_known(self._advance, full)
        if full:
            return None
        start = self.pages.first(MISSING)
        if start >= 0:
            return start, self._chunk(start, self.pages.count)
        start = self.pages.first(CACHED)
        if start < 0:
            return None
        # To map a page takes a quarter of the time that it takes to copy it.
        limit = 4 * self._chunk_limit()
        return start, self._reachable(start, self.pages.run(start, limit, CACHED))

    def _next_known(self, advance: Advance, full: bool) -> tuple[int, int] | None:
        """Bytes while no read in advance is under way (the source itself reads on), else zeros."""
        advance.more = False
        reading = full or (
            bool(self._fetches) and any(not fetch.demand for fetch in self._fetches.values())
        )
        run = None if reading else advance.company() or advance.bytes()
        if run is None and not advance.more:
            run = advance.zeros()
        if run is None and not reading and not advance.more:
            start = self.pages.first(MISSING)  # what came back, as its read failed
            run = None if start < 0 else (start, self._alike(start, self.pages.count))
        if run is None:
            return None
        start, end = run
        return start, self._chunk(start, end)

    def _alike(self, start: int, end: int) -> int:
        """`end`, cut where pages are not filled as `start` is."""
        return end if self._advance is None else min(end, self._advance.at(start)[1])

    def _chunk(self, start: int, end: int) -> int:
        """How many MISSING pages from `start` make one background fill."""
        if start in self._failures:
            return 1
        limit = min(self._chunk_limit(), end - start)
        return self._reachable(start, self.pages.run(start, limit, MISSING))

    def _chunk_limit(self) -> int:
        """Small pieces where faults may be waiting; larger ones after a long time without any."""
        self._quiet += 1
        quiet = self._quiet > _QUIET_CHUNKS and not self.plan.source_fetches
        return self.plan.chunk_pages * (_QUIET_FACTOR if quiet else 1)

    def _reachable(self, page: int, count: int) -> int:
        """`count`, cut where the pages stop being mapped at one stretch (never below 1)."""
        if self._straight:
            return count
        return max(min(count, self.segments.reach(page)), 1)
