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

import errno
from collections import deque
from collections.abc import Iterator

from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    ZERO,
    Abandon,
    Action,
    EndClient,
    Fetch,
    Fill,
    Finish,
    Inspect,
    Report,
    Wake,
)
from userfault.pager.core.plan import Counters, Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import (
    CACHED,
    FILLING,
    MISSING,
    POISONED,
    PRESENT,
    REMOVED,
    Pages,
)
from userfault.pager.core.window import Window
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR

# Refusals for want of memory are repeated this often, with growing pauses, before giving up.
MEMORY_RETRIES = 8
_FIRST_PAUSE_S = 0.005
# After so many background fills without a fault (16 MiB at the default size, some 5 ms) they are
# made larger: a fault that comes then waits up to 0.3 ms, once.
_QUIET_CHUNKS = 64
_QUIET_FACTOR = 4


class MappingCore:
    """One mapping's decisions.  `plan` says what it is, `pages` where its states are.

    `out` holds the actions not yet performed.  `deferred` holds fills that met EAGAIN; the driver
    reads events and calls `retry()`.  `finished` is set once every page is settled.
    """

    def __init__(self, plan: Plan, pages: Pages, segments: Segments | None = None) -> None:
        self.plan = plan
        self.pages = pages
        self.segments = segments or Segments(plan.start, pages.count, plan.shift)
        self.out: deque[Action] = deque()
        self.deferred: deque[Fill] = deque()
        self.counters = Counters()
        self.finished = False
        self.background = plan.policy.background
        self._base = plan.start
        self._straight = self.pages.count  # 0 once the mapping is not one segment any more
        self._shift = plan.shift
        self._window = Window(plan.window_pages)
        self._siblings: list[MappingCore] = [self]
        self._filled: list[tuple[int, int]] = []  # runs of pages filled since the batch was read
        self._quiet = 0  # background fills since the last fault
        self._wanted: deque[tuple[int, int]] = deque()  # prefetch: runs of pages
        self._fetches: dict[int, Fetch] = {}
        self._waiting: deque[tuple[int, int, bool]] = deque()  # fetches beyond the limit
        self._numbers = 0
        self._failures: dict[int, int] = {}  # page -> failed reads of the source
        self._pauses: list[tuple[float, int]] = []  # (when, page): repeat the fetch then
        self.timed = False  # `next_time` has something to say
        self._refusals: dict[int, int] = {}  # page -> refusals for want of memory

    # --- events ----------------------------------------------------------------------------------

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
            child._siblings = self._siblings
            self._siblings.append(child)
        else:
            for page, count in pages.runs(0, pages.count, FILLING):
                pages.move(page, count, MISSING)  # our fetch will not reach the child
            child._failures = dict.fromkeys(self._failures, 0)
        child._finish_if_settled()
        return child

    def leave(self) -> None:
        """This mapping is served no more (its process has ended)."""
        if self not in self._siblings:
            return
        self._siblings.remove(self)
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
        for _, page in self._pauses:
            yield page, 1

    # --- requests --------------------------------------------------------------------------------

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
        self._wanted.clear()
        for core in self._siblings:
            core._stop_filling()
        for state in (FILLING, MISSING):  # in this order: what is poisoned is FILLING until then
            for page, count in self.pages.runs(0, self.pages.count, state):
                self._poison(page, count, cause, cure, report=False)

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

    @property
    def eager(self) -> bool:
        """Whether `idle_work` may find something to do."""
        return not self.finished and (self.background or bool(self._wanted))

    def idle_work(self) -> bool:
        """One chunk of background work into `out`; False when there is none to do now."""
        if self.finished or self.out or self.deferred:
            return False
        run = self._next_wanted() or self._next_background()
        if run is None:
            return False
        page, count = run
        if self.pages.states[page] == CACHED:
            self._act(CONTINUE, page, count, demand=False)
        else:
            self._start(page, count, demand=False)
        return True

    # --- results of fills ------------------------------------------------------------------------

    def done(self, fill: Fill) -> None:
        """The whole of `fill` succeeded; its waiters are awake."""
        page, count, kind = fill.page, fill.count, fill.kind
        counters = self.counters
        if kind == COPY:
            counters.copied += count
        elif kind == ZERO:
            counters.zeroed += count
        elif kind == CONTINUE:
            counters.continued += count
        else:
            counters.poisoned += count
        if fill.demand:
            self._filled.append((page, page + count))
        else:
            counters.background += count
        if page >= 0:
            self._settle(page, count, POISONED if kind == POISON else PRESENT)

    def failed(self, fill: Fill, code: int, done_bytes: int, now: float) -> None:
        """`fill` stopped with errno `code` after `done_bytes`; decide about the rest."""
        done = done_bytes >> self._shift
        if done:
            self.counters.partial += 1
            first = Fill(fill.kind, fill.page, done, fill.address, fill.demand)
            self.done(first)
            fill = self._rest(fill, done)
            if not fill.count:
                return
            if code == errno.EAGAIN:  # it hides the real error, which the rest will show
                self.out.appendleft(fill)
                return
        _REFUSALS.get(code, MappingCore._refused)(self, fill, code, now)

    def source_failed(self, fill: Fill, cause: str, now: float) -> None:
        """The source of `fill` could not be read where it lies (a file shrank, or was changed)."""
        if fill.page not in self._failures:
            self._failures[fill.page] = 0
        self._revert(fill.page, fill.count)
        if fill.count == 1:
            self._read_failed(fill.page, cause, now)
        else:
            self._suspect(fill.page, fill.count)

    def not_ready(self, fill: Fill) -> None:
        """The source cannot be copied from at once: fetch it away from the fault path."""
        self._fetch(fill.page, fill.count, fill.demand)

    def inspected(self, page: int, mapped: bool, now: float) -> None:
        """The answer to `Inspect`: EEXIST was true, or hid that no page could be allocated."""
        if self.pages.states[page] != FILLING:
            return
        if mapped:
            self._settle(page, 1, PRESENT)
            self._wake(page, 1)
        elif self.plan.shared:  # perhaps cached: the client wrote it through another mapping
            self._pause(now + _FIRST_PAUSE_S * 2 ** (self._refusals.get(page, 0) + 1), page)
            self._act(CONTINUE, page, 1, demand=False)
        else:
            address = self.segments.address_of(page)
            self._no_memory(Fill(COPY, page, 1, address), errno.ENOMEM, now)

    # --- results of fetches ----------------------------------------------------------------------

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
            self._read_failed(fetch.page, cause, now)
        else:
            self._suspect(fetch.page, fetch.count)

    def tick(self, now: float) -> None:
        """Time has come to `now`: fetches past their deadline have failed, pauses are over."""
        for fetch in list(self._fetches.values()):
            if now >= fetch.deadline and not fetch.abandoned:
                self.counters.deadlines += 1
                self.out.append(Abandon(fetch.number))
                self.fetch_failed(fetch, f"no answer within {self.plan.policy.deadline_s} s", now)
                fetch.abandoned = True
        due = [page for when, page in self._pauses if when <= now]
        self._pauses = [(when, page) for when, page in self._pauses if when > now]
        for page in due:
            if self.pages.states[page] == FILLING:
                self.pages.move(page, 1, MISSING)
                self._start(page, 1, demand=True)

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest; None while nothing is timed."""
        times = [fetch.deadline for fetch in self._fetches.values()]
        times += [when for when, _ in self._pauses]
        self.timed = bool(times)
        return min(times, default=None)

    def retry(self) -> None:
        """Events were read: try again what met EAGAIN, as far as it is still to be filled."""
        deferred, self.deferred = self.deferred, deque()
        for fill in deferred:
            self._again(fill)
        self._finish_if_settled()

    # --- decisions -------------------------------------------------------------------------------

    def _fill_around(self, page: int) -> None:
        """A missing fault on a page of the source: choose the window and start it."""
        if page in self._failures:
            self._start(page, 1, demand=True)
            return
        window = self._window.at(page)
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

    def _next_missing(self, page: int) -> int:
        """Where a stream that came to `page` will fault next: what is filled raises no fault."""
        found = self.pages.find(MISSING, page, page + 8 * self._window.limit)
        return page if found < 0 else found

    def _start(self, page: int, count: int, *, demand: bool) -> None:
        """Fill MISSING pages from the source, at once or by a fetch."""
        if self.plan.source_zero:
            self.pages.move(page, count, FILLING)
            self._act(ZERO, page, count, demand)
        elif self.plan.source_fetches:
            self._fetch(page, count, demand)
        else:
            self.pages.move(page, count, FILLING)
            self._act(COPY, page, count, demand)

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
        elif state != FILLING:  # PRESENT is ours; else the client wrote it, by another mapping
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
        while self._wanted:
            page, count = self._wanted.popleft()
            start = self.pages.find(MISSING, page, page + count)
            if start >= 0:
                length = self._chunk(start, page + count)
                self._wanted.appendleft((start + length, page + count - start - length))
                return start, length
        return None

    def _next_background(self) -> tuple[int, int] | None:
        # One place stays free for a fetch that a thread waits for.
        if not self.background or len(self._fetches) >= max(self.plan.policy.fetches - 1, 1):
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

    # --- fills -----------------------------------------------------------------------------------

    def _act(
        self,
        kind: int,
        page: int,
        count: int,
        demand: bool = True,
        data: memoryview | None = None,
        data_page: int = 0,
    ) -> None:
        """Ask for a fill, cut into stretches where mremap or munmap split the mapping."""
        if self._straight:
            address = self._base + (page << self._shift)
            self.out.append(Fill(kind, page, count, address, demand, data, data_page))
            return
        while count > 0:
            core = self if self.segments.reach(page) else self._other_with(page)
            if core:
                reach = min(core.segments.reach(page), count) if core is self else 1
                address = core.segments.address_of(page)
                core.out.append(Fill(kind, page, reach, address, demand, data, data_page))
            else:  # mapped nowhere any more: nobody can wait for it
                reach = 1
                if self.pages.states[page] in (FILLING, CACHED):
                    self._settle(page, 1, REMOVED)
            page, count = page + reach, count - reach

    def _other_with(self, page: int) -> MappingCore | None:
        """Another mapping that shares the pages and shows `page`."""
        for core in self._siblings:
            if core.segments.reach(page):
                return core
        return None

    def _settle(self, page: int, count: int, state: int) -> None:
        """Pages are complete: record it, and wake waiters of mappings that share them."""
        # While our fill ran no event was applied, so the states are those the fill was made for.
        self.pages.move(page, count, state)
        if len(self._siblings) > 1:
            for sibling in self._siblings:
                if sibling is not self:
                    sibling._wake_here(page, count)
        if self._failures or self._refusals:
            for settled in range(page, page + count):
                self._failures.pop(settled, None)
                self._refusals.pop(settled, None)
        if not self.pages.unsettled:
            self._finish_if_settled()

    def _rest(self, fill: Fill, done: int) -> Fill:
        """What is left of `fill` after its first `done` pages."""
        return Fill(
            fill.kind,
            fill.page + done if fill.page >= 0 else -1,
            fill.count - done,
            fill.address + (done << self._shift),
            fill.demand,
            fill.data,
            fill.data_page,
        )

    # --- refusals --------------------------------------------------------------------------------

    def _event_pending(self, fill: Fill, _code: int, _now: float) -> None:
        """EAGAIN: an event waits to be read, or its thread has not run since."""
        self.counters.again += 1
        self.deferred.append(fill)

    def _page_exists(self, fill: Fill, _code: int, _now: float) -> None:
        """EEXIST: the first page is there.  Wake its waiters and go on behind it."""
        self.counters.exists += 1
        page = fill.page
        filling = page >= 0 and self.pages.states[page] == FILLING
        if filling and self.plan.exists_is_ambiguous and fill.kind in (COPY, ZERO):
            self.out.append(Inspect(page, fill.address))
        else:
            if page >= 0 and self.pages.states[page] in (FILLING, CACHED):
                self._settle(page, 1, PRESENT)
            self.out.append(Wake(fill.address, 1 << self._shift))
        rest = self._rest(fill, 1)
        if rest.count:
            self.out.append(rest)
        self._finish_if_settled()

    def _not_mapped(self, fill: Fill, _code: int, _now: float) -> None:
        """ENOENT: no one mapping holds the range: cut it, or the page is mapped no more."""
        if fill.count > 1:  # mprotect or munmap split the mapping: halves find the border
            half = fill.count // 2
            rest = self._rest(fill, half)
            fill.count = half
            self.out.appendleft(rest)
            self.out.appendleft(fill)
            return
        self.segments.unmap(fill.address, fill.address + (1 << self._shift))
        self._straight = 0
        self.out.append(Wake(fill.address, 1 << self._shift))
        if fill.page >= 0 and self.pages.states[fill.page] in (FILLING, CACHED):
            self._forsake(fill.page, 1)

    def _gone(self, fill: Fill, _code: int, _now: float) -> None:
        """The page is no longer there to be filled; whoever waits learns it from the kernel."""
        if fill.page >= 0 and self.pages.states[fill.page] in (FILLING, CACHED):
            self._settle(fill.page, 1, REMOVED)
        self.out.append(Wake(fill.address, 1 << self._shift))
        self._finish_if_settled()

    def beyond_end(self, fill: Fill, held: int) -> None:
        """The client cut the file behind the memory to `held` pages: beyond is SIGBUS."""
        inside = max(min(held - fill.page, fill.count), 0)
        if inside:
            first = self._rest(fill, 0)
            first.count = inside
            self.out.appendleft(first)
        for index in range(inside, fill.count):
            self._gone(self._single(fill, index), errno.EFAULT, 0.0)

    def not_cached(self, fill: Fill) -> None:
        """CONTINUE found no page: it was dropped a moment ago.  Who waits is decided anew."""
        # A minor fault on a MISSING page said that the client had written it: so it dropped it too.
        dropped = () if fill.page < 0 else (CACHED, MISSING) if fill.demand else (CACHED,)
        for state in dropped:
            for page, count in self.pages.runs(fill.page, fill.count, state):
                self.pages.move(page, count, REMOVED)
        inspecting = not fill.demand and self.pages.states[fill.page] == FILLING
        if inspecting and self._refused_memory(fill.page) > MEMORY_RETRIES:  # see `inspected`
            self._pauses = [(when, page) for when, page in self._pauses if page != fill.page]
            self._no_memory_left(fill.page)
        self.out.append(Wake(fill.address, fill.count << self._shift))
        self._finish_if_settled()

    def _single(self, fill: Fill, index: int) -> Fill:
        rest = self._rest(fill, index)
        rest.count = 1
        return rest

    def _owner_gone(self, fill: Fill, _code: int, _now: float) -> None:
        """ESRCH: the process has ended; nobody waits any more."""
        self.finished = True
        self.deferred.append(fill)
        self.leave()
        self.out.clear()
        self.deferred.clear()
        self.out.append(Finish((), owner_gone=True))  # in place of any other

    def _no_memory(self, fill: Fill, code: int, now: float) -> None:
        """ENOMEM: try again a little later, a bounded number of times."""
        if fill.count > 1:
            self.out.appendleft(self._rest(fill, 1))
            self._no_memory(self._single(fill, 0), code, now)
            return
        if fill.page < 0 or self.pages.states[fill.page] != FILLING:
            self.deferred.append(fill)
            return
        tries = self._refused_memory(fill.page)
        if tries > MEMORY_RETRIES:
            self._no_memory_left(fill.page)
        else:
            self._pause(now + _FIRST_PAUSE_S * 2**tries, fill.page)

    def _refused_memory(self, page: int) -> int:
        """Count one more refusal for want of memory; how many there were."""
        tries = self._refusals[page] = self._refusals.get(page, 0) + 1
        return tries

    def _no_memory_left(self, page: int) -> None:
        self._poison(
            page,
            1,
            "the kernel has no memory for the page",
            "raise the limit that is hit: memory cgroup, tmpfs size or hugetlb pool",
        )

    def _refused(self, fill: Fill, code: int, _now: float) -> None:
        """Any other errno: nothing we know of helps, so give the pages up with that cause."""
        if fill.page < 0 and code == errno.EFAULT:  # the file ends before it, or it was dropped
            self.out.append(Wake(fill.address, 1 << self._shift))
            return
        if fill.kind == POISON or fill.page < 0:
            self.out.append(EndClient(f"{errno.errorcode.get(code, code)} while giving up a page"))
            return
        name = errno.errorcode.get(code, str(code))
        self._poison(fill.page, fill.count, f"the kernel refused to fill it: {name}", "report this")

    def _again(self, fill: Fill) -> None:
        """Repeat a deferred fill as far as its pages still wait; wake who waits at others."""
        page, states = fill.page, self.pages.states
        settled = page < 0 or states[page] in (MISSING, PRESENT, REMOVED)
        if settled and fill.count == 1 and fill.kind in (ZERO, CONTINUE):
            self.out.append(fill)  # zeros of a dropped page, a page of the client's: right always
            return
        left = fill.count
        for state in _REPEATED[fill.kind, fill.demand]:
            for first, count in self.pages.runs(page, fill.count, state):
                self._act(fill.kind, first, count, fill.demand, fill.data, fill.data_page)
                left -= count
        if left:
            self.out.append(Wake(fill.address, fill.count << self._shift))

    def _abandon(self, fill: Fill) -> None:
        """Forget a fill; its pages are the source's again, its waiters fault again."""
        if fill.page >= 0:
            self._revert(fill.page, fill.count)
            self._wake(fill.page, fill.count)
        self.out.append(Wake(fill.address, fill.count << self._shift))

    # --- failures of the source ------------------------------------------------------------------

    def _fetch(self, page: int, count: int, demand: bool) -> None:
        """Read pages away from the fault path, now or when a place is free."""
        for first, length in self.pages.runs(page, count, MISSING):
            self.pages.move(first, length, FILLING)
        policy = self.plan.policy
        if len(self._fetches) >= policy.fetches:
            if demand:
                self._waiting.appendleft((page, count, demand))
            else:
                self._waiting.append((page, count, demand))
            return
        self._numbers += 1
        fetch = Fetch(self._numbers, page, count, demand, float("inf"))
        self._fetches[fetch.number] = fetch
        self.counters.fetches += 1
        self.out.append(fetch)

    def started(self, fetch: Fetch, now: float) -> None:
        """The driver has handed `fetch` to a worker: its deadline runs from here."""
        fetch.deadline = now + self.plan.policy.deadline_s
        self.timed = True

    def _hurry(self, page: int) -> None:
        """A thread waits for a page whose fetch may still queue: let it be the next."""
        for at, (first, count, _) in enumerate(self._waiting):
            if first <= page < first + count:
                del self._waiting[at]
                self._waiting.appendleft((first, count, True))
                return

    def _start_waiting(self) -> None:
        if self._waiting and len(self._fetches) < self.plan.policy.fetches:
            self._fetch(*self._waiting.popleft())

    def _revert(self, page: int, count: int) -> None:
        for first, length in self.pages.runs(page, count, FILLING):
            self.pages.move(first, length, MISSING)

    def _pause(self, until: float, page: int) -> None:
        self._pauses.append((until, page))
        self.timed = True

    def _suspect(self, page: int, count: int) -> None:
        """A read of several pages failed: which one is bad shows when each is read alone."""
        for suspect in range(page, page + count):
            self._failures.setdefault(suspect, 0)
        self._wake(page, count)

    def _read_failed(self, page: int, cause: str, now: float) -> None:
        """One page could not be read: repeat within the bound, then give it up."""
        failures = self._failures[page] = self._failures.get(page, 0) + 1
        self.counters.source_failures += 1
        if self.pages.states[page] != MISSING:  # dropped meanwhile
            self._wake(page, 1)
        elif failures > self.plan.policy.retries:
            self._poison(page, 1, cause, "repair the source, then restore again")
        else:
            self.pages.move(page, 1, FILLING)
            self._pause(now + _FIRST_PAUSE_S * 4**failures, page)

    def _poison(self, page: int, count: int, cause: str, cure: str, *, report: bool = True) -> None:
        """Give pages up: their accesses raise SIGBUS from now on."""
        policy = self.plan.policy
        if report:
            self.out.append(Report(page, cause, cure))
        if policy.on_failure == "kill" or not self.plan.has_poison:
            self.out.append(EndClient(f"page {page} of lazily filled memory: {cause} ({cure})"))
            return
        for first, length in self.pages.runs(page, count, MISSING):
            self.pages.move(first, length, FILLING)
        for first, length in self.pages.runs(page, count, FILLING):
            self._act(POISON, first, length)

    # --- shared by the above -------------------------------------------------------------------

    def _drop(self, page: int, count: int) -> None:
        """Pages are the client's zeros from now on; who waits there faults again."""
        waited = self.pages.find(FILLING, page, page + count) >= 0
        self.pages.move(page, count, REMOVED)
        self.counters.removed += count
        if waited:
            self._wake(page, count)
        self._finish_if_settled()

    def _forsake(self, page: int, count: int) -> None:
        """Pages that this mapping shows no more: dropped, unless another mapping shares them."""
        if len(self._siblings) == 1:
            self._drop(page, count)
            return
        for each in range(page, page + count):
            if self._other_with(each) is None:
                self._drop(each, 1)

    def _wake(self, page: int, count: int) -> None:
        """Make whoever waits for these pages fault again, in every mapping that shares them."""
        for core in self._siblings:
            core._wake_here(page, count)

    def _wake_here(self, page: int, count: int) -> None:
        while count > 0:
            reach = min(self.segments.reach(page), count)
            if reach:
                self.out.append(Wake(self.segments.address_of(page), reach << self._shift))
            reach = max(reach, 1)
            page, count = page + reach, count - reach

    def _finish_if_settled(self) -> None:
        if self.pages.unsettled:
            return
        for core in self._siblings:
            if not core.finished:
                core.finished = True
                core.out.append(Finish(tuple(core._done_with())))

    def _done_with(self) -> Iterator[tuple[int, int]]:
        """What can be unregistered, as (start, length).

        Poisoned pages of shared memory cannot: a child forked later would not inherit the marker
        and read zeros, so its faults are still to be answered.
        """
        for held in self.segments:
            start = held.start
            count = (held.end - start) >> self._shift
            for page, length in (
                self.pages.runs(held.page, count, POISONED) if self.plan.shared else ()
            ):
                poisoned = held.start + ((page - held.page) << self._shift)
                if start < poisoned:
                    yield start, poisoned - start
                start = poisoned + (length << self._shift)
            if start < held.end:
                yield start, held.end - start


# Which pages of a fill that met EAGAIN still want it, by kind and demand.  (A CONTINUE that nobody
# waits for asks whether a page that could not be filled is cached.)
_REPEATED = {
    (COPY, True): (FILLING,),
    (COPY, False): (FILLING,),
    (ZERO, True): (FILLING,),
    (ZERO, False): (FILLING,),
    (CONTINUE, True): (CACHED,),
    (CONTINUE, False): (CACHED, FILLING),
    (POISON, True): (FILLING, POISONED),
    (POISON, False): (FILLING, POISONED),
}

_REFUSALS = {
    errno.EAGAIN: MappingCore._event_pending,
    errno.EEXIST: MappingCore._page_exists,
    errno.ENOENT: MappingCore._not_mapped,
    errno.ESRCH: MappingCore._owner_gone,
    errno.ENOMEM: MappingCore._no_memory,
}
