"""The books of one mapping: what its pages are, where they are shown, what is asked of the driver.

Every fill wakes all waiters of its range.  Whenever a fill is abandoned its range is woken too: a
waiter faults again and is decided anew.  That is the one rule by which no thread is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    UNPROTECT,
    ZERO,
    Action,
    EndClient,
    Fill,
    Finish,
    Report,
    Wake,
)
from userfault.pager.core.costs import Costs
from userfault.pager.core.plan import UNLIMITED, Counters, Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import (
    CACHED,
    CLEAN,
    FILLING,
    HIDDEN,
    MISSING,
    POISONED,
    PRESENT,
    REMOVED,
    SPILLED,
    Pages,
)
from userfault.pager.core.trace import Tracing
from userfault.pager.core.watch import Watch


class Budget(Protocol):
    """Who has pages go when more are in than may be."""

    def filled(self, books: Ledger, page: int, count: int, *, clean: bool) -> None:
        """These are in."""

    def dropped(self, books: Ledger, page: int, count: int) -> None:
        """The client is about to drop these."""


class Ledger:
    """Fills asked for, pages settled, waiters woken.

    `out` holds the actions not yet performed.  `finished` is set once every page is settled.
    `watch`: the faults that were not answered at once.  `failures`, `refusals`: of pages that are
    not settled, how often their source could not be read, and memory for them was not to be had.
    `asked`: the page of the last fault.  `base`: the address of page 0, right for `straight` pages:
    all, or none once mremap or munmap came by; then `segments` tells.
    `peers`: the ledgers that share these pages, this one among them (shared memory of a process
    and its children).  `budget`: theirs, where pages may be taken out of memory.  `left`: places
    from which mremap has moved pages, and which may show them still (MREMAP_DONTUNMAP).
    """

    def __init__(self, plan: Plan, pages: Pages, segments: Segments | None = None) -> None:
        self.plan = plan
        self.pages = pages
        whole = Segments(plan.start, pages.count, plan.shift)
        self.segments = whole if segments is None else segments  # none may be left
        self.out: deque[Action] = deque()
        self.counters, self.costs = Counters(), Costs()
        self.finished = False
        self.watch = Watch(plan.policy.fault_deadline_s)
        self.timed = False  # something waits for a time
        self.filled: list[tuple[int, int]] = []  # runs of pages filled since the batch was read
        self.failures: dict[int, int] = {}
        self.refusals: dict[int, int] = {}
        self.peers: list[Ledger] = [self]
        self.shift = plan.shift
        self.room = UNLIMITED  # pages that may still come in without a thread that waits for them
        self.given_up = ""  # the cause, once every page was to be given up
        self.asked, self.patience, self.made = -1, 1, 0  # see above, and `Books`
        self.base = plan.start
        # 0 once the mapping is not one segment any more
        self.straight = pages.count if self.segments.are_one(plan.start, pages.count) else 0
        # To be told: a page that the watchdog gave up is poisoned; pages are in.
        self.gave_up: Callable[[int], None] = _nothing
        self.told: Callable[[int, int, bool], None] | None = None
        self.trace: Tracing | None = None
        self.budget: Budget | None = None
        self.left = Segments.of((), plan.shift)

    # --- addresses -------------------------------------------------------------------------------

    def reachable(self, page: int, count: int) -> int:
        """`count`, cut where the pages stop being mapped at one stretch (never below 1)."""
        if self.straight:
            return count
        return max(min(count, self.segments.reach(page)), 1)

    def unmap(self, start: int, end: int) -> None:
        """Addresses [start, end) are gone.  Shared pages stay for whoever else maps them."""
        gone = self.segments.unmap(start, end)
        self.straight = 0
        self.left.unmap(start, end)
        self.out.append(Wake(start, end - start))  # who waits there: no fill will come by any more
        for page, count in gone:
            self.forsake(page, count)

    def remap(self, old: int, new: int, length: int) -> None:
        """Addresses [old, old + length) are at `new` now; who waits at the old place is woken."""
        if self.budget is not None:
            self.left.take(self.segments, old, old + length)
        self.segments.remap(old, new, length)
        self.straight = 0
        self.out.append(Wake(old, length))  # bytes under way go to the new place

    def not_mapped(self, address: int) -> None:
        """Nothing is mapped at the page of `address` (no event told of it)."""
        self.segments.unmap(address, address + (1 << self.shift))
        self.straight = 0

    # --- what is asked of the driver -------------------------------------------------------------

    def act(
        self,
        kind: int,
        page: int,
        count: int,
        demand: bool = True,
        data: memoryview | None = None,
        data_page: int = 0,
        write: bool = False,
    ) -> None:
        """Ask for a fill (for one who is about to `write`), cut where the mapping is split."""
        protect = self.budget is not None and not write and _protects(kind, self.pages.states[page])
        if self.straight:
            address = self.base + (page << self.shift)
            self.out.append(
                Fill(kind, page, count, address, demand, data, data_page, None, protect)
            )
            return
        while count > 0:
            ledger = self if self.segments.reach(page) else _other_with(self, page)
            if ledger:
                reach = min(ledger.segments.reach(page), count) if ledger is self else 1
                address = ledger.segments.address_of(page)
                ledger.out.append(
                    Fill(kind, page, reach, address, demand, data, data_page, None, protect)
                )
            else:  # mapped nowhere (any more): nobody can wait for it
                reach = 1
                state = self.pages.states[page]
                if state == FILLING and self.plan.joinable:
                    _hide(self, page, 1)
                elif state in (FILLING, CACHED):
                    self.settle(page, 1, REMOVED)
            page, count = page + reach, count - reach

    def poison(self, page: int, count: int, cause: str, cure: str, *, report: bool = True) -> None:
        """Give pages up: their accesses raise SIGBUS from now on."""
        policy = self.plan.policy
        if report:
            self.out.append(Report(page, cause, cure))
        if (report and policy.on_failure == "kill") or not self.plan.has_poison:
            self.out.append(EndClient(f"page {page} of lazily filled memory: {cause} ({cure})"))
            return
        for first, length in self.pages.runs(page, count, MISSING):
            self.pages.move(first, length, FILLING)
        for state in (FILLING, SPILLED):
            for first, length in self.pages.runs(page, count, state):
                self.act(POISON, first, length)

    def wake(self, page: int, count: int) -> None:
        """Make whoever waits for these pages fault again, in every mapping that shares them."""
        for peer in self.peers:
            peer.wake_here(page, count)

    def wake_here(self, page: int, count: int) -> None:
        """The same in this mapping alone."""
        for start, end in self.segments.addresses_of(page, count):
            self.out.append(Wake(start, end - start))

    def put_off(self, page: int, count: int) -> None:
        """Pages are not filled at once: note it if the fault being answered is among them."""
        if page <= self.asked < page + count:
            self.watch.wait(self.asked)
            self.timed = True

    # --- what became of it -----------------------------------------------------------------------

    def release(self) -> None:
        """Its core was released: neither the watchdog nor the planner is to be kept by this."""
        self.gave_up, self.told, self.trace = _nothing, None, None
        if self in self.peers:
            self.peers.remove(self)

    def done(self, fill: Fill) -> None:
        """The whole of `fill` succeeded; its waiters are awake."""
        page, count, kind = fill.page, fill.count, fill.kind
        counters = self.counters
        counters.filled(kind, count)
        if fill.demand or kind == POISON:
            self.filled.append((page, page + count))
        else:
            counters.background += count
        if page >= 0 and kind != UNPROTECT:
            if self.trace is not None:
                self.trace.filled(page, count, kind, fill.demand)
            clean = CLEAN if fill.protect else _becomes(kind, self.plan, self.pages.states[page])
            self.settle(page, count, POISONED if kind == POISON else clean)
            if self.budget is not None and kind != POISON:
                self.budget.filled(self, page, count, clean=fill.protect)
            if kind == POISON and not fill.demand:
                self.gave_up(page)
            elif self.told is not None:
                self.told(page, count, fill.demand)
        elif self.watch.any:
            self.watch.served(page if page >= 0 else -fill.address, count)

    def settle(self, page: int, count: int, state: int) -> None:
        """Pages are complete: record it, and wake waiters of mappings that share them."""
        # While our fill ran no event was applied, so the states are those the fill was made for.
        self.pages.move(page, count, state)
        if len(self.peers) > 1:
            for peer in self.peers:
                if peer is not self:
                    peer.wake_here(page, count)
                    peer.watch.served(page, count)
        if self.watch.any:
            self.watch.served(page, count)
        if self.failures or self.refusals:
            for settled in range(page, page + count):
                self.failures.pop(settled, None)
                self.refusals.pop(settled, None)
        if not self.pages.unsettled:
            self.finish_if_settled()

    def drop(self, page: int, count: int) -> None:
        """Pages are the client's zeros from now on; who waits there faults again."""
        if self.trace is not None:
            self.trace.dropped(page, count)
        waited = self.pages.find(FILLING, page, page + count) >= 0
        if self.budget is not None:
            self.budget.dropped(self, page, count)
        self.pages.move(page, count, REMOVED)
        self.counters.removed += count
        if waited:
            self.wake(page, count)
        self.finish_if_settled()

    def forsake(self, page: int, count: int) -> None:
        """Pages that this mapping shows no more: dropped, unless another one does, or may come."""
        left = [(page, count)]
        if len(self.peers) > 1:
            for peer in self.peers:
                left = peer.segments.hidden(left)
        for first, length in left:
            if self.plan.joinable:
                _hide(self, first, length)
            else:
                self.drop(first, length)

    # --- the end ---------------------------------------------------------------------------------

    def finish_if_settled(self) -> None:
        """Let go of the memory once nothing is left to fill (nor ever will be)."""
        if self.pages.unsettled or self.budget is not None:
            return
        for peer in self.peers:
            if not peer.finished:
                peer.finish()

    def finish(self) -> None:
        """This mapping needs nothing more."""
        self.finished = True
        ranges = self.done_with()
        self.out.append(Finish(ranges))
        if ranges:  # of what happens there no event tells any more: forget the addresses
            self.segments.unmap(0, 1 << 64)
            self.straight = 0

    def done_with(self) -> tuple[tuple[int, int], ...]:
        """What can be unregistered, as (start, length).

        Not shared memory with poisoned pages: a child forked later inherits no markers and would
        read zeros.  Not memory over a copy, whose page would be back in place of a dropped one.
        """
        if self.plan.over_copy or (self.plan.shared and self.pages.find(POISONED) >= 0):
            return ()
        return tuple((held.start, held.end - held.start) for held in self.segments)

    # --- forks -----------------------------------------------------------------------------------

    def join(self, peers: list[Ledger]) -> None:
        """Share pages with these."""
        self.peers = peers
        peers.append(self)


def child_of(ledger: Ledger, pages: Pages | None, shown: Segments | None = None) -> Ledger:
    """The ledger of a forked child, with its own `pages`, or sharing them (shared memory).

    `shown`: the addresses of another process that maps the same memory.
    """
    child = Ledger(ledger.plan, pages or ledger.pages, shown or ledger.segments.copy())
    if pages is None:
        child.given_up = ledger.given_up
        child.budget = ledger.budget
        child.left = ledger.left.copy() if shown is None else child.left
        child.join(ledger.peers)
        if ledger.plan.joinable:
            _appear(child)
    else:
        pages.revert(0, pages.count)  # our fetch will not reach the child
        child.failures = dict.fromkeys(ledger.failures, 0)
    return child


def _other_with(ledger: Ledger, page: int) -> Ledger | None:
    """Another mapping that shares the pages and shows `page`."""
    for peer in ledger.peers:
        if peer.segments.reach(page):
            return peer
    return None


def _hide(ledger: Ledger, page: int, count: int) -> None:
    """Nobody shows these pages: what the source has of them is for whoever comes to."""
    for state in (MISSING, FILLING):
        for first, length in ledger.pages.runs(page, count, state):
            ledger.pages.move(first, length, HIDDEN)
    ledger.finish_if_settled()


def _appear(child: Ledger) -> None:
    """What nobody has shown and `child` does is the source's again."""
    pages = child.pages
    for page, count in pages.runs(0, pages.count, HIDDEN):
        pages.move(page, count, MISSING)
        for first, length in child.segments.hidden([(page, count)]):
            pages.move(first, length, HIDDEN)


def _protects(kind: int, state: int) -> bool:
    """Whether a write to what is filled in has to ask first: to what is the source's."""
    return state == CLEAN if kind == CONTINUE else kind in (COPY, ZERO) and state == FILLING


def _nothing(_page: int) -> None:
    """Nobody watches."""


def _becomes(kind: int, plan: Plan, state: int) -> int:
    """What pages in `state` are after a fill.

    Over a copy, zeros in place of a dropped page may be dropped once more, within the same madvise.
    What comes then is a minor fault, as the copy has the page: it must not look like one on a page
    of the copy, so such a page is never PRESENT again.
    """
    if kind == POISON:
        return POISONED
    return REMOVED if kind == ZERO and plan.over_copy and state != FILLING else PRESENT
