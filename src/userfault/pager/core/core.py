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

from collections.abc import Callable

from userfault.pager.core.actions import (
    POISON,
    Fetch,
    Fill,
)
from userfault.pager.core.filling import Filling
from userfault.pager.core.guard import guarded
from userfault.pager.core.ledger import Ledger, child_of
from userfault.pager.core.overdue import Overseer
from userfault.pager.core.pace import Pace
from userfault.pager.core.pauses import Pauses
from userfault.pager.core.plan import Counters, Plan
from userfault.pager.core.planner import Books, Load, Planner
from userfault.pager.core.planning import planner_for
from userfault.pager.core.quick import Quick
from userfault.pager.core.reads import Reads
from userfault.pager.core.refusals import Refusals
from userfault.pager.core.residency import Residency
from userfault.pager.core.segments import Segments
from userfault.pager.core.series import Series
from userfault.pager.core.states import FILLING, MISSING, POISONED, Pages
from userfault.pager.core.under_way import UnderWay
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR


class MappingCore:
    """One mapping's decisions.  `plan` says what it is, `pages` where its states are.

    It routes; the parts decide, each what its module says, and know nothing of each other.

    `out`: actions not yet performed.  `deferred`: fills that met EAGAIN; read events, `retry()`.
    """

    def __init__(
        self,
        plan: Plan,
        pages: Pages,
        segments: Segments | None = None,
        *,
        ledger: Ledger | None = None,
        planner: Callable[[Books], Planner] = planner_for,
    ) -> None:
        self.plan = plan
        self.pages = pages
        self.ledger = ledger or Ledger(plan, pages, segments)
        pauses = self._pauses = Pauses(self.ledger)
        self.reads = Reads(self.ledger, pauses)
        self.refusals = Refusals(self.ledger, pauses, self.leave)
        self._make_planner = planner
        self.planner = planner(self.ledger)
        self.work = UnderWay(self.ledger, self.reads, self.refusals, pauses)
        self.pace = Pace(self.ledger)
        self._filling = Filling(self.ledger, self.planner, self.reads, self.work.peers, self.pace)
        self.quick = Quick(self.ledger, self.planner, self._filling)
        self.series = Series(self.ledger, self._filling)
        self._overseer = Overseer(self.ledger, self.work.peers)
        self.keep_to(Residency(plan, pages))
        self.ledger.gave_up = self._overseer.gave_up
        self.ledger.told = self.planner.settled if self.planner.follows else None
        self.interrupted = self._overseer.interrupted
        # A new batch of events was read: what was filled before it has woken its waiters.
        self.batch = self.ledger.filled.clear
        self.done = self.ledger.done  # the whole of a `Fill` succeeded; its waiters are awake
        self.inspected = self.refusals.inspected  # the answer to `Inspect`
        self.beyond_end = self.refusals.beyond_end  # the file behind the memory was cut
        self.not_cached = self.refusals.not_cached  # CONTINUE found no page
        self.retry = self.refusals.put_aside.retry  # events were read: once more what met EAGAIN
        self.out = self.ledger.out
        self.deferred = self.refusals.deferred
        self.watch = self.ledger.watch
        self.segments = self.ledger.segments

    # --- how it stands ---------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Every page is settled."""
        return self.ledger.finished

    @property
    def counters(self) -> Counters:
        """What was counted."""
        return self.ledger.counters

    @property
    def given_up(self) -> str:
        """The cause, once everything was to be given up."""
        return self.ledger.given_up

    @property
    def timed(self) -> bool:
        """`next_time` has something to say."""
        return self.ledger.timed

    @property
    def eager(self) -> bool:
        """Whether `idle_work` may find something to do."""
        return not self.ledger.finished and self.planner.eager

    # --- messages --------------------------------------------------------------------------------

    def fault(self, address: int, flags: int) -> None:
        """A thread waits at `address`."""
        ledger = self.ledger
        ledger.counters.faults += 1
        self.planner.quiet = 0
        page = (address - ledger.base) >> ledger.shift
        if not 0 <= page < ledger.straight:
            page = ledger.segments.page_of(address)
            if page < 0:
                if self.guard is None or not self.guard.left(address, flags):
                    self._filling.unowned(address, flags)
                return
        ledger.asked = page
        for start, end in ledger.filled:
            if start <= page < end:
                ledger.counters.duplicates += 1
                return
        state = self.pages.states[page]
        if ledger.trace is not None:
            ledger.trace.fault(page, flags, state)
        if self.guard is not None and self.guard.fault(page, state, flags):
            return
        if flags & _MINOR:
            self._filling.minor(page, state)
        elif state == MISSING:
            self._filling.around(page)
        elif state == FILLING:
            self._filling.hurry(page)
        elif state == POISONED:
            ledger.act(POISON, page, 1)
        else:
            self._filling.dropped(page)

    def remove(self, start: int, end: int) -> None:
        """madvise is about to drop addresses [start, end): from now on they read zero."""
        for page, count in self.segments.whole_in(start, end):
            self.ledger.drop(page, count)

    def unmap(self, start: int, end: int) -> None:
        """Addresses [start, end) are gone.  Shared pages stay for whoever else maps them."""
        self.ledger.unmap(start, end)

    def remap(self, old: int, new: int, length: int) -> None:
        """mremap moved addresses: fills under way for the old place are done anew at the new."""
        self.ledger.remap(old, new, length)
        self.refusals.put_aside.abandon()
        self.ledger.finish_if_settled()

    def fork(self, pages: Pages | None = None, shown: Segments | None = None) -> MappingCore:
        """The core that serves the child: with its own `pages`, or sharing ours (shared memory).

        `shown`: where another process has them.
        """
        ledger = child_of(self.ledger, pages, shown)
        child = MappingCore(self.plan, ledger.pages, ledger=ledger, planner=self._make_planner)
        child.planner.forget()
        child.refusals.early = self.refusals.early
        if pages is None:
            child.keep_to(self.residency)
            child.join(self)
        ledger.finish_if_settled()
        return child

    # --- what became of actions ------------------------------------------------------------------

    def failed(self, fill: Fill, code: int, done_bytes: int, now: float) -> None:
        """`fill` stopped with errno `code` after `done_bytes`; decide about the rest."""
        self.refusals.failed(fill, code, done_bytes, now)

    def not_ready(self, fill: Fill) -> None:
        """The source cannot be copied from at once: fetch it away from the fault path."""
        self.reads.fetch(fill.page, fill.count, fill.demand)

    def source_failed(self, fill: Fill, cause: str, now: float) -> None:
        """The source of `fill` could not be read where it lies (a file shrank, or was changed)."""
        self.reads.unreadable(fill.page, fill.count, cause, now, demand=fill.demand)

    def started(self, fetch: Fetch, now: float) -> None:
        """The driver has handed `fetch` to a worker: its deadline runs from here."""
        self.reads.started(fetch, now)

    def fetched(self, fetch: Fetch, data: memoryview) -> None:
        """The source answered with the bytes of all pages of `fetch`."""
        self.reads.fetched(fetch, data)

    def fetch_failed(self, fetch: Fetch, cause: str, now: float) -> None:
        """The source raised, or delivered something else than asked for."""
        self.reads.failed(fetch, cause, now)

    # --- time ------------------------------------------------------------------------------------

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest; None while nothing is timed."""
        first = self.reads.next_time()
        for each in (self._pauses, self.watch, self.pace):
            time = each.next_time()
            if time is not None and (first is None or time < first):
                first = time
        self.ledger.timed = first is not None
        return first

    def tick(self, now: float) -> None:
        """Time has come to `now`: pauses are over; reads and faults may have lasted too long."""
        self.reads.tick(now)
        for page, demand in self._pauses.due(now):
            self._filling.again(page, demand=demand)
        self._overseer.tick(now)
        self.planner.time(now)
        self.pace.tick(now)

    def idle_work(self) -> int:
        """One piece of background work into `out`: of how many pages (0: there is none now)."""
        room = min(self.residency.room, self.ledger.room)
        if self.residency.turns:  # what nobody asked for is not worth what goes for it
            self.planner.background, room = False, self.plan.chunk_pages
        if self.finished or self.out or self.deferred or not room:
            return 0
        load = Load(self.reads.full, self.reads.in_advance, room, self.pace.pages)
        if (run := self.planner.idle(load)) is None:
            return self.planner.more
        if isinstance(run, list):
            return self.series.ask(run)
        count = min(run[1], room)
        self._filling.in_advance(run[0], count, self.planner.why)
        return count

    def disturb(self) -> None:
        """Faults came, of another mapping: small pieces again."""
        self.planner.quiet = 0

    # --- requests --------------------------------------------------------------------------------

    def want(self, page: int, count: int) -> None:
        """Fill these pages soon, after the faults that wait."""
        self.planner.want(page, count)

    def complete(self) -> None:
        """Fill everything, also where the policy has no background fill."""
        self.planner.background = self.residency.lifted = True
        self.pace.lift()
        self.ledger.finish_if_settled()

    def registered(self) -> None:
        """Everything is registered from now on (see `Plan.early`)."""
        self.refusals.early = False

    def give_up(self, cause: str, cure: str) -> None:
        """Poison every page that is not filled (or end the client, where there is no poison)."""
        self.planner.forget()
        self.work.give_up(cause, cure)

    def leave(self) -> None:
        """This mapping is served no more (its process has ended)."""
        self.work.leave()

    def release(self) -> None:
        """Its mapping has gone: let go of what it holds (a layout, states) by reference counting.

        A pager collects no cycles, so the calls of its parts to each other must not keep them.
        """
        self.work.leave()
        self.ledger.release()
        self.refusals.release_owner()
        self.done = _nothing_done

    def keep_to(self, residency: Residency) -> None:
        """The budget of these pages."""
        self.residency = residency
        self.guard = guarded(self.ledger, self._filling, residency)

    def join(self, other: MappingCore) -> None:
        self.work.join(other.work.peers)
        self._overseer.peers = self._filling.peers = self.work.peers


def _nothing_done(fill: Fill) -> None:
    """Nobody fills for a core that was released."""
    del fill
