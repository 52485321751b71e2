"""How a fill is begun: for a fault, with what comes with it; in advance; again after a pause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from userfault.pager.core.actions import CONTINUE, COPY, POISON, ZERO, Fill
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.states import CACHED, FILLING, MISSING, POISONED, REMOVED
from userfault.pager.core.trace import BACKGROUND, SET
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as MINOR


class Chooser(Protocol):
    """Which pages are filled with the one that a thread waits for, as (first, count).

    `along`: what is filled right behind that.
    """

    @property
    def along(self) -> list[tuple[int, int]]: ...

    def fault(self, page: int) -> tuple[int, int]:
        """It is the source's."""
        ...

    def minor(self, page: int) -> tuple[int, int]:
        """It is in the page cache."""
        ...


class Reader(Protocol):
    """Who reads the source away from the fault path."""

    def fetch(self, page: int, count: int, demand: bool) -> None:
        """Read MISSING pages."""
        ...


class Peer(Protocol):
    """A mapping that shares the pages."""

    def hasten(self, page: int) -> None:
        """A thread has come to wait for the page."""
        ...


class Pacer(Protocol):
    """Who says how fast the background may be."""

    def spent(self, count: int) -> None:
        """So many pages are filled in the background."""
        ...


class Filling:
    """Fills of one mapping.  `peers` has that mapping and those that share its pages."""

    def __init__(
        self, ledger: Ledger, planner: Chooser, reads: Reader, peers: Sequence[Peer], pace: Pacer
    ) -> None:
        self._pace = pace
        self._ledger = ledger
        self._pages = ledger.pages
        self._planner = planner
        self._reads = reads
        self.peers = peers

    def around(self, page: int, *, write: bool = False) -> None:
        """A missing fault on a page of the source: with what comes with it.  `write`: the thread
        is to be let write at once, where a write has to ask first otherwise."""
        first, count = self._planner.fault(page)
        self._ledger.counters.around += count - 1
        if not write:
            self.start(first, count, demand=True)
        else:
            self.start(page, 1, demand=True, write=True)
            for start, end in ((first, page), (page + 1, first + count)):
                if start < end:
                    self.start(start, end - start, demand=True)
        self.follow()

    def follow(self) -> None:
        """What is filled right behind the run of the last fault."""
        along = self._planner.along
        while along:
            self.start(*along.pop(), demand=False)

    def hurry(self, page: int) -> None:
        """A thread comes to wait for a page that is being filled, for one of those who share it."""
        self._ledger.watch.wait(page, joined=True)
        self._ledger.timed = True
        for peer in self.peers:
            peer.hasten(page)

    def minor(self, page: int, state: int) -> None:
        """A fault on a page that is in the page cache and not mapped here."""
        ledger = self._ledger
        ledger.counters.minor += 1
        if state == CACHED:
            first, count = self._planner.minor(page)
            ledger.counters.around += count - 1
            ledger.act(CONTINUE, first, count)
        elif state == POISONED:
            ledger.act(POISON, page, 1)
        elif state in (MISSING, FILLING) and not ledger.plan.shared:
            # Whoever put it into the file, this mapping has its own pages: COPY passes it by.
            self.around(page) if state == MISSING else self.hurry(page)
        elif state == FILLING:
            self.hurry(page)
        elif state == REMOVED and ledger.plan.over_copy:  # the file's bytes must not be back
            self.dropped(page)
        else:  # PRESENT is ours; else the client wrote it, by another mapping
            ledger.counters.foreign += state == MISSING
            ledger.act(CONTINUE, page, 1)

    def dropped(self, page: int) -> None:
        """A fault on a page that the client has dropped: it reads zero."""
        ledger = self._ledger
        ledger.counters.dropped += 1
        if ledger.plan.over_copy:
            self._pages.move(page, 1, REMOVED)  # and stays it: see `Ledger.done`
        ledger.act(ZERO, page, 1)

    def unowned(self, address: int, flags: int) -> None:
        """A fault beyond what we were given: memory that mremap grew, which reads zero.

        (Or an old place that MREMAP_DONTUNMAP left registered; its file may have the page, which is
        the client's unless others have that file, too.)
        """
        ledger = self._ledger
        ledger.counters.unowned += 1
        start = address >> ledger.shift << ledger.shift
        cached = flags & MINOR and not ledger.plan.over_copy
        ledger.out.append(Fill(CONTINUE if cached else ZERO, -1, 1, start))

    def in_advance(self, page: int, count: int, why: int = SET) -> None:
        """Nobody waits: pages that are cached are mapped, others come from the source."""
        if why == BACKGROUND:
            self._pace.spent(count)
        elif self._ledger.trace is not None:
            self._ledger.trace.ahead(page, count, why)
        if self._pages.states[page] == CACHED:
            self._ledger.act(CONTINUE, page, count, demand=False)
        else:
            self.start(page, count, demand=False)

    def again(self, page: int, *, demand: bool) -> None:
        """Its pause is over: as if it had not been begun."""
        if self._pages.states[page] == FILLING:
            self._pages.move(page, 1, MISSING)
            self.start(page, 1, demand=demand)

    def start(self, page: int, count: int, *, demand: bool, write: bool = False) -> None:
        """Fill MISSING pages from the source, at once or by a fetch."""
        plan = self._ledger.plan
        if self._ledger.given_up:  # a fill that was to poison them was abandoned
            self._ledger.poison(page, count, self._ledger.given_up, "", report=False)
        elif plan.source_fetches:  # an answer has room for so much, whatever was chosen
            end, most = page + count, plan.most_read_pages
            for first in range(page, end, most):
                self._reads.fetch(first, min(most, end - first), demand)
        elif plan.layout is not None and not plan.source_zero:
            self._start_known(page, count, demand, write)
        else:
            self._pages.move(page, count, FILLING)
            kind = ZERO if plan.source_zero else COPY
            self._ledger.act(kind, page, count, demand, write=write)

    def _start_known(self, page: int, count: int, demand: bool, write: bool) -> None:
        """Fill MISSING pages, those that are known to be zeros without the source."""
        layout = self._ledger.plan.layout
        assert layout is not None
        end = page + count
        while page < end:
            _, high, zeros = layout.at(page)
            count = min(high, end) - page
            self._pages.move(page, count, FILLING)
            self._ledger.act(ZERO if zeros else COPY, page, count, demand, write=write)
            page += count
