"""Fills that nobody waits for, made one after the other by one action: which may be, what became of
them.
"""

from __future__ import annotations

from typing import Protocol

from userfault.pager.core.actions import CONTINUE, COPY, ZERO, Fill, Together
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.states import CACHED, FILLING, PRESENT
from userfault.pager.core.trace import SET

_ALONE = -1


class Beginner(Protocol):
    """Begins a fill by itself."""

    def in_advance(self, page: int, count: int) -> None:
        """Nobody waits for it."""
        ...


class Series:
    """Those of one mapping."""

    def __init__(self, ledger: Ledger, filling: Beginner) -> None:
        self._ledger = ledger
        self._filling = filling

    def ask(self, runs: list[tuple[int, int]]) -> int:
        """Have runs filled that are all MISSING, or all CACHED: of how many pages.

        Where each would be a matter of its own only the first is begun.
        """
        ledger = self._ledger
        if ledger.trace is not None:
            for first, count in runs:
                ledger.trace.ahead(first, count, SET)
        kind = self._kind(runs)
        if kind == _ALONE:
            first, count = runs[0]
            count = ledger.reachable(first, count)
            self._filling.in_advance(first, count)
            return count
        ledger.out.append(Together(kind, runs, ledger.base, ledger.patience))
        return sum([count for _, count in runs])

    def _kind(self, runs: list[tuple[int, int]]) -> int:
        """The fill that is right for all of them, if there is one."""
        ledger, plan = self._ledger, self._ledger.plan
        if plan.source_fetches or ledger.given_up or not ledger.straight or plan.watched:
            return _ALONE
        if ledger.pages.states[runs[0][0]] == CACHED:
            return CONTINUE
        if plan.source_zero:
            return ZERO
        layout = plan.layout
        if layout is None or not layout.at(runs[0][0])[2]:
            return COPY  # of pages that are zeros the source has zeros
        for page, count in runs:
            _, high, zeros = layout.at(page)
            if not zeros or page + count > high:
                return _ALONE
        return ZERO

    def done(self, action: Together, count: int) -> None:
        """Its first `count` runs were filled.

        None of them was FILLING meanwhile: no event was applied while the driver was at it, and
        what it had done when it was killed its records tell, as of any other fill.
        """
        ledger, runs = self._ledger, action.runs[:count]
        pages = sum([length for _, length in runs])
        ledger.made = count
        ledger.counters.filled(action.kind, pages)
        ledger.counters.background += pages
        ledger.counters.set_filled += pages
        if len(ledger.peers) > 1 or ledger.watch.any or ledger.failures or ledger.refusals:
            for page, length in runs:
                ledger.settle(page, length, PRESENT)
        else:
            ledger.pages.settle(runs)
            ledger.finish_if_settled()
        if ledger.trace is not None:
            for page, length in runs:
                ledger.trace.filled(page, length, action.kind, False)
        if ledger.told is not None:
            for page, length in runs:
                ledger.told(page, length, False)

    def stopped(self, action: Together, at: int) -> Fill:
        """Run `at` was refused, or its source is not at hand: it is a fill of its own from now on,
        which has not been made yet."""
        page, count = action.runs[at]
        if action.kind != CONTINUE:  # what is in the page cache stays CACHED until it is mapped
            self._ledger.pages.move(page, count, FILLING)
        address = action.base + (page << self._ledger.shift)
        return Fill(action.kind, page, count, address, demand=False)
