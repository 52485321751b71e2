"""What a fault waits for, in words: for the watchdog's report."""

from __future__ import annotations

from userfault.pager.core.actions import Fetch, Fill, Inspect
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.overdue import Cause, Peer
from userfault.pager.core.pauses import Pauses
from userfault.pager.core.reads import Reads
from userfault.pager.core.refusals import Refusals


def fill_awaited(page: int, ledger: Ledger, refusals: Refusals) -> Cause | None:
    """A fill of `page` (below zero: minus an address) that is asked for, or put aside."""
    for action in ledger.out:
        if isinstance(action, Fill) and _fills(action, page):
            return Cause("a fill that is being made", settling=True)
        if isinstance(action, Inspect) and action.page == page:
            return Cause("a look at the page tables", settling=True)
    for fill in refusals.deferred:
        if _fills(fill, page):
            return Cause(
                "a thread of the client that raised an event (madvise, munmap, mremap or fork)"
                " and has not run since: until then the kernel refuses fills (EAGAIN)",
                gate=True,
            )
    return None


def read_awaited(
    page: int, now: float, ledger: Ledger, reads: Reads, pauses: Pauses, whose: Peer
) -> Cause | None:
    """A read of `page` that is under way, waits for a place, or is made again after a pause."""
    policy = ledger.plan.policy
    tries = f"attempt {ledger.failures.get(page, 0) + 1} of {policy.retries + 1}"
    until = pauses.end_of(page)
    if until is not None:
        refused = ledger.refusals.get(page, 0)
        if refused:
            return Cause(f"memory for the page (refused {refused} times, ENOMEM)")
        return Cause(f"a read of the source ({tries}, in {max(until - now, 0):.2f} s)")
    fetch = reads.of(page)
    if fetch is not None:
        return _fetch_awaited(fetch, now, tries, policy.deadline_s, whose)
    if reads.queued(page):
        return Cause(f"one of {policy.fetches} reads of the source to end")
    return None


def _fetch_awaited(fetch: Fetch, now: float, tries: str, deadline_s: float, whose: Peer) -> Cause:
    if fetch.deadline == float("inf"):
        return Cause(f"read {fetch.number} of the source, which waits for its turn")
    age = now - (fetch.deadline - deadline_s)
    text = f"read {fetch.number} of the source ({tries}, begun {age:.1f} s ago)"
    return Cause(text, read=(whose, fetch) if fetch.count > 1 else None)


def _fills(fill: Fill, page: int) -> bool:
    """Whether `fill` is for the page (below zero: minus an address)."""
    if page < 0:
        return fill.page < 0 and fill.address == -page
    return fill.page <= page < fill.page + fill.count
