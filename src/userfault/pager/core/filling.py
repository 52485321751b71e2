"""The ground floor of a mapping's decisions: fills asked for, pages settled, waiters woken.

Every fill wakes all waiters of its range.  Whenever a fill is abandoned its range is woken too: a
waiter faults again and is decided anew.  That is the one rule by which no thread is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from userfault.pager.core.actions import CONTINUE, COPY, POISON, ZERO, Action, Fill, Finish, Wake
from userfault.pager.core.plan import Counters, Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import CACHED, FILLING, MISSING, POISONED, PRESENT, REMOVED, Pages
from userfault.pager.core.watch import Watch

if TYPE_CHECKING:
    from userfault.pager.core.core import MappingCore


class Filling:
    """What a mapping is, where its pages are shown, and what is asked of the driver.

    A floor of `MappingCore`, of which alone there are instances; above it are `Reading`, then
    `Refusing`, then the decisions.  `out` holds the actions not yet performed.  `finished` is set
    once every page is settled.  `watch`: the faults that were not answered at once.
    """

    def __init__(self, plan: Plan, pages: Pages, segments: Segments | None = None) -> None:
        self.plan = plan
        self.pages = pages
        whole = Segments(plan.start, pages.count, plan.shift)
        self.segments = whole if segments is None else segments  # none may be left
        self.out: deque[Action] = deque()
        self.counters = Counters()
        self.finished = False
        self.watch = Watch(plan.policy.fault_deadline_s)
        self.timed = False  # `next_time` has something to say
        self._asked = -1  # the page of the last fault
        self._base = plan.start
        self._straight = self.pages.count  # 0 once the mapping is not one segment any more
        self._shift = plan.shift
        # The mappings that share these pages: shared memory of a process and its children.
        self._siblings: list[MappingCore] = [cast("MappingCore", self)]
        self._filled: list[tuple[int, int]] = []  # runs of pages filled since the batch was read
        self._failures: dict[int, int] = {}  # page -> failed reads of the source
        self._refusals: dict[int, int] = {}  # page -> refusals for want of memory

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
        if fill.demand or kind == POISON:
            self._filled.append((page, page + count))
        else:
            counters.background += count
        if page >= 0:
            self._settle(page, count, POISONED if kind == POISON else PRESENT)
            if kind == POISON and not fill.demand:
                cast("MappingCore", self)._gave_up(page)
        elif self.watch.any:
            self.watch.served(-fill.address, count)

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
                    sibling.watch.served(page, count)
        if self.watch.any:
            self.watch.served(page, count)
        if self._failures or self._refusals:
            for settled in range(page, page + count):
                self._failures.pop(settled, None)
                self._refusals.pop(settled, None)
        if not self.pages.unsettled:
            self._finish_if_settled()

    def _put_off(self, page: int, count: int) -> None:
        """Pages are not filled at once: note it if the fault being answered is among them.

        (What nobody asked for, a background fill, may wait for as long as it likes.)
        """
        if page <= self._asked < page + count:
            self.watch.wait(self._asked)
            self.timed = True

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
        left = [(page, count)]
        for core in self._siblings:
            left = core.segments.hidden(left)
        for first, length in left:
            self._drop(first, length)

    def _revert(self, page: int, count: int) -> None:
        for first, length in self.pages.runs(page, count, FILLING):
            self.pages.move(first, length, MISSING)

    def _wake(self, page: int, count: int) -> None:
        """Make whoever waits for these pages fault again, in every mapping that shares them."""
        for core in self._siblings:
            core._wake_here(page, count)

    def _wake_here(self, page: int, count: int) -> None:
        for start, end in self.segments.addresses_of(page, count):
            self.out.append(Wake(start, end - start))

    def _finish_if_settled(self) -> None:
        if self.pages.unsettled:
            return
        for core in self._siblings:
            if not core.finished:
                core.finished = True
                ranges = core._done_with()
                core.out.append(Finish(ranges))
                if ranges:  # of what happens there no event tells any more: forget the addresses
                    core.segments.unmap(0, 1 << 64)
                    core._straight = 0

    def _done_with(self) -> tuple[tuple[int, int], ...]:
        """What can be unregistered, as (start, length).

        Nothing of shared memory with poisoned pages: a child forked later does not inherit their
        markers and would read zeros, so its faults are still to be answered.
        """
        if self.plan.shared and self.pages.find(POISONED) >= 0:
            return ()
        return tuple((held.start, held.end - held.start) for held in self.segments)
