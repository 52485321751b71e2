"""Faults on pages of the source of which nothing else is known: decided without an action.

Nearly every fault is one of these.  What is decided is what `Filling.around` decides, and the bytes
are kept by the same rules: its fill goes straight from the message to the ioctl, whose argument is
in the driver's record before it is made, and no event is applied in between.  So nobody can find
these pages FILLING, and they are not: a successor finds them MISSING, with what the record says of
the fill, as it does after a `Together`.

Under a residency budget they are copied with the protect flag.  Nobody can write to them before
they are CLEAN, since a write asks, and who answers is who makes them CLEAN; nor are they taken out
before.  A worker that is killed in between has a successor that takes them for written, which costs
memory and no byte.
"""

from __future__ import annotations

from typing import Protocol

from userfault.pager.core.actions import COPY, Fill
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.planner import Planner, Run
from userfault.pager.core.states import CLEAN, FILLING, MISSING, PRESENT
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_WP as _WP
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_WRITE as _WRITE


class Starter(Protocol):
    """Who begins fills."""

    def start(self, page: int, count: int, *, demand: bool) -> None:
        """Fill MISSING pages from the source."""
        ...

    def follow(self) -> None:
        """What is filled right behind the run of the last fault."""
        ...


class Quick:
    """Those of one mapping.  A driver that `asks` copies the run that it is told from the source by
    one fill, for which a thread waits, and answers by `copied` or `refused`; or by `put_off` where
    the source is not at hand.

    `alone`: with a fault comes its page and nothing else, neither now nor soon.  `protect`: writes
    to what is copied have to ask first."""

    def __init__(self, ledger: Ledger, planner: Planner, filling: Starter) -> None:
        plan = ledger.plan
        self._ledger = ledger
        self._pages = ledger.pages
        self._states = ledger.pages.states
        self._planner = planner
        self._filling = filling
        self.alone = plan.window_pages == 1 and plan.course is None and not plan.evicts
        self.protect = plan.evicts
        self._becomes = CLEAN if plan.evicts else PRESENT
        self._other = _MINOR | _WRITE | _WP if plan.evicts else _MINOR  # who writes is let write
        special = plan.source_fetches or plan.source_zero or plan.layout or plan.touches
        self._never = bool(special or plan.tracked or plan.over_copy or planner.follows)

    def asks(self, address: int, flags: int) -> Run | None:
        """A thread waits at `address`: the run to be copied, around it.  None: it is another kind
        of fault, and a matter for `MappingCore.fault`; nothing has been decided."""
        ledger = self._ledger
        page = (address - ledger.base) >> ledger.shift
        if (
            not 0 <= page < ledger.straight
            or self._states[page] != MISSING
            or flags & self._other
            or self._never
            or ledger.watch.any
            or ledger.failures
            or ledger.refusals
            or ledger.given_up
            or ledger.trace is not None
            or len(ledger.peers) > 1
        ):
            return None
        planner, counters = self._planner, ledger.counters
        planner.quiet = 0
        ledger.asked = page
        counters.faults += 1
        if self.alone:
            return page, 1
        run = planner.fault(page)
        counters.around += run[1] - 1
        return run

    def copied(self, page: int, count: int) -> None:
        """All of the run is in, and its waiters are awake."""
        ledger, pages = self._ledger, self._pages
        ledger.counters.copied += count
        ledger.filled.append((page, page + count))
        pages.came(page, count, self._becomes)
        if ledger.budget is not None:
            ledger.budget.filled(ledger, page, count, clean=True)
        if not self.alone and self._planner.along:
            self._filling.follow()
        if not pages.unsettled:
            ledger.finish_if_settled()

    def put_off(self, page: int, count: int) -> None:
        """The source of the run is not at hand, or has to be looked at first: as an action."""
        self._filling.start(page, count, demand=True)
        self._filling.follow()

    def refused(self, page: int, count: int) -> Fill:
        """The kernel has refused it, or a part of it: it is a fill like any other, to be told of by
        `MappingCore.failed`."""
        ledger = self._ledger
        self._pages.move(page, count, FILLING)
        self._filling.follow()
        address = ledger.base + (page << ledger.shift)
        return Fill(COPY, page, count, address, protect=self.protect)
