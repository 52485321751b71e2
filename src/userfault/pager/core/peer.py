"""One mapping as those see it that share its pages: shared memory of a process and its children."""

from __future__ import annotations

from collections.abc import Iterator

from userfault.pager.core.actions import Fetch, Fill, Inspect
from userfault.pager.core.awaited import fill_awaited, read_awaited
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.overdue import Cause
from userfault.pager.core.pauses import Pauses
from userfault.pager.core.reads import Reads
from userfault.pager.core.refusals import Refusals
from userfault.pager.core.states import FILLING, MISSING


class Peer:
    """What is under way in one mapping.  `peers`: all that share its pages, this one among them.

    `given_up`: the cause, once everything was to be given up.
    """

    def __init__(self, ledger: Ledger, reads: Reads, refusals: Refusals, pauses: Pauses) -> None:
        self._ledger = ledger
        self._reads = reads
        self._refusals = refusals
        self._pauses = pauses
        self.given_up = ""
        self.peers: list[Peer] = [self]

    def join(self, peers: list[Peer]) -> None:
        """Share pages with these."""
        self.peers = peers
        peers.append(self)

    def leave(self) -> None:
        """It is served no more: what it had under way for the others will not come."""
        if self not in self.peers:
            return
        ledger = self._ledger
        self.peers.remove(self)
        ledger.peers.remove(ledger)
        ledger.watch.clear()
        if self.peers:  # they ask again
            for page, count in self.under_way():
                ledger.pages.revert(page, count)
                ledger.wake(page, count)

    def awaited(self, page: int, now: float) -> Cause | None:
        """What a fault on the page waits for; None where nothing is under way for it here."""
        return fill_awaited(page, self._ledger, self._refusals) or read_awaited(
            page, now, self._ledger, self._reads, self._pauses, self
        )

    def hasten(self, page: int) -> None:
        """A thread of one of them waits for a page that is read here in advance."""
        self._reads.hasten(page)

    def read_alone(self, fetch: Fetch, cause: str, now: float) -> None:
        """Stop a read of several pages, and read each alone."""
        self._reads.read_alone(fetch, cause, now)

    def stop(self, page: int) -> None:
        """`page` was given up: stop what is under way for it alone."""
        self._pauses.end(page)
        self._reads.stop(page)

    def give_up(self, cause: str, cure: str) -> None:
        """Poison every page that is not filled, for all of them."""
        for peer in self.peers:
            peer.given_up = cause
            peer.stop_filling()
        pages = self._ledger.pages
        for state in (FILLING, MISSING):  # in this order: what is poisoned is FILLING until then
            for page, count in pages.runs(0, pages.count, state):
                self._ledger.poison(page, count, cause, cure, report=False)

    def stop_filling(self) -> None:
        """Forget whatever is under way to unfilled pages: they will be poisoned instead."""
        self._reads.stop_all()
        self._pauses.clear()
        self._refusals.release()

    def under_way(self) -> Iterator[tuple[int, int]]:
        """The pages that are FILLING because of this mapping."""
        for action in (*self._ledger.out, *self._refusals.deferred):
            if isinstance(action, Fill) and action.page >= 0:
                yield action.page, action.count
            elif isinstance(action, Inspect):
                yield action.page, 1
        yield from self._reads.under_way()
        for page in self._pauses.pages():
            yield page, 1
