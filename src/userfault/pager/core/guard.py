"""Faults on pages that a residency budget may take out of memory, or has taken out.

A write to a CLEAN page asks here.  The page is PRESENT, in memory that outlives this process,
before the protection is lifted and the writer runs on: so what is CLEAN was never written.
"""

from __future__ import annotations

from typing import Protocol

from userfault.pager.core.actions import POISON, UNPROTECT, UNSPILL, Fill, Wake
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.residency import Residency
from userfault.pager.core.states import (
    CLEAN,
    EVICTING,
    FILLING,
    MISSING,
    POISONED,
    PRESENT,
    SPILLED,
    SPILLING,
)
from userfault.pager.core.window import Window
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_WP as _WP
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_WRITE as _WRITE

_WRITTEN = 16  # pages at most that one write lets be written, where writes come in order
_BACK = 16  # pages at most that come back from the spill file at once


class Filler(Protocol):
    """Who begins fills."""

    def around(self, page: int, *, write: bool = False) -> None:
        """A fault on a page of the source."""
        ...

    def hurry(self, page: int) -> None:
        """A thread comes to wait for a page that is being filled."""
        ...


class Guard:
    """The faults of one mapping that are answered otherwise because of its `residency`."""

    def __init__(self, ledger: Ledger, filling: Filler, residency: Residency) -> None:
        self._ledger = ledger
        self._pages = ledger.pages
        self._filling = filling
        self._residency = residency
        self._window = Window(_WRITTEN)

    def fault(self, page: int, state: int, flags: int) -> bool:
        """A thread waits for `page`; False: it is a fault like any other."""
        if state in (EVICTING, SPILLING):
            self._residency.wait(page)
        elif state == SPILLED:
            count = self._pages.run(page, min(_BACK, self._ledger.reachable(page, _BACK)), SPILLED)
            self._ledger.act(UNSPILL, page, count)
        elif flags & _WP:
            self._write(page, state)
        elif state == MISSING and flags & (_WRITE | _MINOR):
            # A minor fault: the page was unmapped, and not yet out of the file, when it was
            # raised.  (Or a worker was killed there: then the fill finds it.)
            self._filling.around(page, write=bool(flags & _WRITE))
        else:
            return False
        return True

    def _write(self, page: int, state: int) -> None:
        """A thread wants to write to a page that is there and protected."""
        ledger = self._ledger
        ledger.counters.writes += 1
        count = 1
        if state == CLEAN:
            window = self._window.at(page)
            count = self._pages.run(page, ledger.reachable(page, max(window, 1)), CLEAN)
            self._window.ended(page + count - 1, max(window, 1))
            self._pages.move(page, count, PRESENT)  # before anybody can write
            self._residency.written(page, count)
        elif state == FILLING:
            self._filling.hurry(page)
            return
        elif state == MISSING:  # it was left in memory: the fill finds it there
            self._filling.around(page, write=True)
            return
        elif state == POISONED:
            ledger.act(POISON, page, 1)
            return
        ledger.act(UNPROTECT, page, count)

    def cannot_protect(self, fill: Fill) -> None:
        """This kernel maps no page that is there with protection: these count as written."""
        for page, count in self._pages.runs(fill.page, fill.count, CLEAN):
            self._pages.move(page, count, PRESENT)
            self._residency.written(page, count)
        fill.protect = False
        self._ledger.out.appendleft(fill)

    def left(self, address: int, flags: int) -> bool:
        """A thread waits at an address where mremap has left a page behind (MREMAP_DONTUNMAP): it
        comes to its new place first, then here.  False: it is no such address."""
        ledger = self._ledger
        page = ledger.left.page_of(address)
        if page < 0:
            return False
        state = self._pages.states[page]
        start = address >> ledger.shift << ledger.shift
        if state == CLEAN:  # what is mapped here is not protected
            state = PRESENT
            self._pages.move(page, 1, state)
            self._residency.written(page, 1)
        if flags & _WP:  # it waits since before the page was moved: nothing is here any more
            ledger.out.append(Wake(start, 1 << ledger.shift))
            return True
        if not self.fault(page, state, flags) and state == MISSING and not flags & _MINOR:
            self._filling.around(page)
            state = FILLING
        if state in (MISSING, FILLING, SPILLED, EVICTING, SPILLING):
            ledger.out.append(Wake(start, 1 << ledger.shift))
            return True
        return False


def guarded(ledger: Ledger, filling: Filler, residency: Residency) -> Guard | None:
    """The guard of a mapping with that budget; None where no page can be taken out."""
    if not ledger.plan.evicts:
        return None
    ledger.budget = residency
    return Guard(ledger, filling, residency)
