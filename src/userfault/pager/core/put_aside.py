"""Fills that met EAGAIN: an event was pending, so they are put aside until events were read."""

from __future__ import annotations

from collections import deque

from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    UNPROTECT,
    UNSPILL,
    ZERO,
    Fill,
    Wake,
)
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.states import (
    CACHED,
    CLEAN,
    FILLING,
    MISSING,
    POISONED,
    PRESENT,
    REMOVED,
    SPILLED,
)

# Which pages of a fill that met EAGAIN still want it, by kind and demand.  (A CONTINUE that nobody
# waits for asks whether a page that could not be filled is cached.)
_REPEATED = {
    (COPY, True): (FILLING,),
    (COPY, False): (FILLING,),
    (ZERO, True): (FILLING,),
    (ZERO, False): (FILLING,),
    (CONTINUE, True): (CACHED,),
    (CONTINUE, False): (CACHED, FILLING),
    (POISON, True): (FILLING, POISONED, SPILLED),
    (UNPROTECT, True): (PRESENT,),
    (UNSPILL, True): (SPILLED,),
}


class PutAside:
    """The `fills` of one mapping that are to be tried again, in the order in which they failed."""

    def __init__(self, ledger: Ledger) -> None:
        self.fills: deque[Fill] = deque()
        self._ledger = ledger

    def retry(self) -> None:
        """Events were read: try again what met EAGAIN, as far as it is still to be filled."""
        for _ in range(len(self.fills)):
            self._again(self.fills.popleft())
        self._ledger.finish_if_settled()

    def abandon(self) -> None:
        """Addresses have moved: forget what was put aside, which is the source's again."""
        ledger = self._ledger
        for fill in self.fills:
            if fill.page >= 0:
                ledger.pages.revert(fill.page, fill.count)
                ledger.wake(fill.page, fill.count)
            wake_range(self._ledger, fill)
        self.fills.clear()

    def release(self) -> None:
        """What is unfilled will be poisoned: forget fills put aside for it, wake who waits."""
        pages = self._ledger.pages
        for _ in range(len(self.fills)):
            fill = self.fills.popleft()
            end = fill.page + fill.count
            if fill.page >= 0 and any(
                pages.find(state, fill.page, end) >= 0 for state in (MISSING, FILLING)
            ):
                wake_range(self._ledger, fill)
            else:
                self.fills.append(fill)

    def _again(self, fill: Fill) -> None:
        """Repeat a deferred fill as far as its pages still wait; wake who waits at others."""
        ledger = self._ledger
        page, states = fill.page, ledger.pages.states
        # Under a budget a page that is missing now may have been taken out since.
        missing = PRESENT if ledger.budget is not None else MISSING
        settled = page < 0 or states[page] in (missing, PRESENT, REMOVED, CLEAN)
        if settled and fill.count == 1 and fill.kind in (ZERO, CONTINUE):
            # Zeros of a dropped page, a page of the client's: right always.  What was dropped since
            # is the client's own, and may be written.
            fill.protect = fill.protect and (page < 0 or states[page] == CLEAN)
            ledger.out.append(fill)
            return
        left = fill.count
        for state in _REPEATED[fill.kind, fill.demand]:
            for first, count in ledger.pages.runs(page, fill.count, state):
                ledger.act(fill.kind, first, count, fill.demand, fill.data, fill.data_page)
                left -= count
        if left:
            wake_range(self._ledger, fill)


def wake_range(ledger: Ledger, fill: Fill) -> None:
    """Wake whoever waits in the range of `fill`."""
    ledger.out.append(Wake(fill.address, fill.count << ledger.shift))
