"""A recorded trace again, with another planner: no memory, no kernel, a clock that is counted.

The core decides as it does when it serves; what takes time is what a model of the costs says: a
fault, an ioctl, each page.  The client touches the pages of a touch trace in their order, and
computes in between for as long as it did.  While it computes, what a planner fills in advance is
filled; a fault that comes meanwhile waits for the piece that is being filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from userfault.kernel.errors import UsageError
from userfault.pager.core import trace
from userfault.pager.core.actions import Fill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.planner import Books, Planner
from userfault.pager.core.planning import planner_for
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import MISSING, PRESENT, Pages
from userfault.pager.core.trace import Trace

_START = 1 << 40  # an address for page 0
_SMALL = 4096


class Prices(msgspec.Struct, frozen=True):
    """Seconds.  `fault`: from the touch until the pager begins to fill, and from the end of the
    fill until the thread runs; `fill`: an ioctl; `page`: of 4 KiB (of larger ones as much more).

    The defaults: anonymous memory from the page cache, measured on 6.18.
    """

    fault: float = 20e-6
    fill: float = 2e-6
    page: float = 1.6e-6


class Touch(NamedTuple):
    """A first touch, after `after_s` seconds in which the client computed."""

    after_s: float
    page: int


class Outcome(msgspec.Struct, frozen=True):
    """`touched`: pages; `faults` are left of as many.  `filled`: pages, of them `for_nothing` were
    touched by nobody, `in_advance` filled while nobody waited.  `waited_s`: what the client waited
    for pages, `longest_s` for one of them; `total_s`: from its first touch to after its last.
    """

    touched: int
    faults: int
    filled: int
    in_advance: int
    for_nothing: int
    waited_s: float
    longest_s: float
    total_s: float


def touches_of(recorded: Trace) -> list[Touch]:
    """The first touches of a touch trace.

    Between the end of a fill and the next fault the client computed; what a fault itself takes is
    in there too, and is taken out: as much as the tenth part of them that took least.  Raises
    UsageError for a trace that does not tell every touch.
    """
    if not recorded.header.touches:
        raise UsageError(
            "this trace does not tell every touch",
            cause="pages were filled before anybody touched them, and such a page raises no fault",
            cure="record with Policy(background=False, window_bytes=1, trace=PATH)",
        )
    found: list[tuple[int, int]] = []
    seen: set[int] = set()
    free_at = 0
    for record in recorded.records:
        if record.what == trace.FAULT and record.page not in seen:
            seen.add(record.page)
            found.append((max(record.time_ns - free_at, 0) if found else 0, record.page))
        elif record.what == trace.FILLED:
            free_at = record.time_ns
    gaps = sorted(gap for gap, _ in found)
    least = gaps[len(gaps) // 10] if gaps else 0
    return [Touch(max(gap - least, 0) / 1e9, page) for gap, page in found]


def rehearse(
    touches: Sequence[Touch],
    pages: int,
    page_size: int,
    policy: Policy,
    prices: Prices | None = None,
    planner: Callable[[Books], Planner] = planner_for,
) -> Outcome:
    """What would have been, with this policy (and another planner than it says)."""
    stage = _Stage(pages, page_size, policy, planner, prices or Prices())
    for touch in touches:
        stage.touch(touch)
    return stage.outcome(len({touch.page for touch in touches}))


class _Stage:
    def __init__(
        self,
        pages: int,
        page_size: int,
        policy: Policy,
        planner: Callable[[Books], Planner],
        prices: Prices,
    ) -> None:
        self._pages = Pages(bytearray(pages), pages)
        self._core = MappingCore(Plan(_START, page_size, policy), self._pages, planner=planner)
        self._size = page_size
        self._prices = prices
        self._now = 0.0  # of the client
        self._free_at = 0.0  # of the pager
        self._faults = self._made = 0
        self._woken_at = 0.0  # of the thread that waited for the last fill of that kind
        self._waited = self._longest = 0.0

    def touch(self, touch: Touch) -> None:
        """The client computes, then touches."""
        self._now += touch.after_s
        self._ahead()
        if self._pages.states[touch.page] == PRESENT:
            return
        assert self._pages.states[touch.page] == MISSING
        began = self._now
        self._faults += 1
        core = self._core
        self._free_at = max(self._now, self._free_at) + self._prices.fault
        core.batch()
        core.fault(_START + touch.page * self._size, 0)
        self._perform()
        self._now = self._woken_at
        self._waited += self._now - began
        self._longest = max(self._longest, self._now - began)

    def _ahead(self) -> None:
        """What the pager fills while the client computes."""
        core = self._core
        while self._free_at < self._now and core.eager:
            if not core.idle_work():
                break
            self._perform()
        self._free_at = max(self._free_at, self._now)

    def _perform(self) -> None:
        core, prices = self._core, self._prices
        while core.out:
            action = core.out.popleft()
            if not isinstance(action, Fill):
                continue
            began = self._free_at
            took = prices.fill + action.count * prices.page * (self._size / _SMALL)
            self._free_at += took
            if action.demand:
                self._made += 1
                self._woken_at = self._free_at
                core.ledger.costs.took(began, self._free_at, action.count, self._made)
            core.done(action)

    def outcome(self, touched: int) -> Outcome:
        """How it went."""
        counters = self._core.counters
        filled = counters.copied + counters.zeroed
        return Outcome(
            touched=touched,
            faults=self._faults,
            filled=filled,
            in_advance=counters.background,
            for_nothing=filled - touched,
            waited_s=self._waited,
            longest_s=self._longest,
            total_s=self._now,
        )
