"""What is under way for the pages of one mapping; those that share them may ask, and stop it."""

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


class UnderWay:
    """Fills not performed or put aside, reads, pauses.

    `peers`: of the mappings that share these pages, this one among them (shared memory of a
    process and its children).
    """

    def __init__(self, ledger: Ledger, reads: Reads, refusals: Refusals, pauses: Pauses) -> None:
        self._ledger = ledger
        self._reads = reads
        self._pauses = pauses
        self._refusals = refusals
        self.peers: list[UnderWay] = [self]

    def awaited(self, page: int, now: float) -> Cause | None:
        """What a fault on the page waits for; None where nothing is under way for it here."""
        return fill_awaited(page, self._ledger, self._refusals) or read_awaited(
            page, now, self._ledger, self._reads, self._pauses, self
        )

    def read_alone(self, fetch: Fetch, cause: str, now: float) -> None:
        """Stop a read of several pages, and read each alone."""
        self._reads.read_alone(fetch, cause, now)

    def stop(self, page: int) -> None:
        """`page` was given up: stop what is under way for it alone."""
        self._pauses.end(page)
        self._reads.stop(page)

    def hasten(self, page: int) -> None:
        """A thread waits for the page now: its read goes first."""
        self._reads.hasten(page)

    def pages(self) -> Iterator[tuple[int, int]]:
        """The pages that are FILLING because of this mapping."""
        for action in (*self._ledger.out, *self._refusals.deferred):
            if isinstance(action, Fill) and action.page >= 0:
                yield action.page, action.count
            elif isinstance(action, Inspect):
                yield action.page, 1
        yield from self._reads.under_way()
        for page in self._pauses.pages():
            yield page, 1

    def stop_filling(self) -> None:
        """Forget whatever is under way to unfilled pages: they will be poisoned instead."""
        self._reads.stop_all()
        self._pauses.clear()
        self._refusals.put_aside.release()

    def give_up(self, cause: str, cure: str) -> None:
        """Poison every page that is not filled (or end the client, where there is no poison)."""
        ledger = self._ledger
        for shares in ledger.peers:
            shares.given_up = cause
        for peer in self.peers:
            peer.stop_filling()
        for state in (FILLING, MISSING):  # in this order: what is poisoned is FILLING until then
            for page, count in ledger.pages.runs(0, ledger.pages.count, state):
                ledger.poison(page, count, cause, cure, report=False)

    def leave(self) -> None:
        """The mapping is served no more (its process has ended)."""
        if self not in self.peers:
            return
        self.peers.remove(self)
        self._ledger.peers.remove(self._ledger)
        self._ledger.watch.clear()
        if self.peers:  # what we had under way for them will not come: they ask again
            for page, count in self.pages():
                self._ledger.pages.revert(page, count)
                self._ledger.wake(page, count)

    def join(self, peers: list[UnderWay]) -> None:
        """Share pages with these."""
        self.peers = peers
        peers.append(self)
