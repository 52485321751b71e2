"""What a thread that waits for a page gets, and what is filled from the source with it."""

from __future__ import annotations

from userfault.pager.core.actions import CONTINUE, COPY, POISON, ZERO, Fill
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.peer import Peer
from userfault.pager.core.planner import Load, Planner
from userfault.pager.core.reads import Reads
from userfault.pager.core.states import CACHED, FILLING, MISSING, POISONED
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as _MINOR


class Answers:
    """Answers faults of one mapping, as `MappingCore.fault` finds them; starts fills."""

    def __init__(self, ledger: Ledger, reads: Reads, planner: Planner, peer: Peer) -> None:
        self._ledger = ledger
        self._reads = reads
        self._planner = planner
        self._peer = peer

    def missing(self, page: int) -> None:
        """A missing fault on a page of the source: with what comes with it."""
        first, count = self._planner.fault(page)
        self._ledger.counters.around += count - 1
        self.start(first, count, demand=True)

    def again(self, page: int, demand: bool) -> None:
        """The pause before another attempt is over."""
        pages = self._ledger.pages
        if pages.states[page] == FILLING:
            pages.move(page, 1, MISSING)
            self.start(page, 1, demand=demand)

    def in_advance(self) -> int:
        """Nobody waits: one piece of background work, of how many pages (0: there is none now)."""
        run = self._planner.idle(Load(self._reads.full, self._reads.in_advance))
        if run is None:
            return self._planner.more
        page, count = run
        if self._ledger.pages.states[page] == CACHED:
            self._ledger.act(CONTINUE, page, count, demand=False)
        else:
            self.start(page, count, demand=False)
        return count

    def hurry(self, page: int) -> None:
        """A thread comes to wait for a page that is being filled, for one of those who share it."""
        self._ledger.watch.wait(page, joined=True)
        self._ledger.timed = True
        for peer in self._peer.peers:
            peer.hasten(page)

    def start(self, page: int, count: int, *, demand: bool) -> None:
        """Fill MISSING pages from the source, at once or by a fetch."""
        plan = self._ledger.plan
        if self._peer.given_up:  # a fill that was to poison them was abandoned
            self._ledger.poison(page, count, self._peer.given_up, "", report=False)
        elif plan.source_fetches:
            self._reads.fetch(page, count, demand)
        elif plan.layout is not None and not plan.source_zero:
            self._start_known(page, count, demand)
        else:
            self._ledger.pages.move(page, count, FILLING)
            self._ledger.act(ZERO if plan.source_zero else COPY, page, count, demand)

    def _start_known(self, page: int, count: int, demand: bool) -> None:
        """Fill MISSING pages, those that are known to be zeros without the source."""
        layout = self._ledger.plan.layout
        assert layout is not None
        end = page + count
        while page < end:
            _, high, zeros = layout.at(page)
            count = min(high, end) - page
            self._ledger.pages.move(page, count, FILLING)
            self._ledger.act(ZERO if zeros else COPY, page, count, demand)
            page += count

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
        elif state in (MISSING, FILLING) and not self._ledger.plan.shared:
            # Whoever put it into the file, this mapping has its own pages: COPY passes it by.
            self.missing(page) if state == MISSING else self.hurry(page)
        elif state == FILLING:
            self.hurry(page)
        else:  # PRESENT is ours; else the client wrote it, by another mapping
            ledger.counters.foreign += state == MISSING
            ledger.act(CONTINUE, page, 1)

    def unowned(self, address: int, flags: int) -> None:
        """A fault beyond what we were given: memory that mremap grew, which reads zero.

        (Or an old place that MREMAP_DONTUNMAP left registered; its file may have the page.)
        """
        ledger = self._ledger
        ledger.counters.unowned += 1
        start = address >> ledger.shift << ledger.shift
        ledger.out.append(Fill(CONTINUE if flags & _MINOR else ZERO, -1, 1, start))
