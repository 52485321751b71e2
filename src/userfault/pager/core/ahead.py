"""What is filled while nobody waits: what comes next, what was asked for, then everything.

The part that planners have in common.  What they differ in is what comes with a fault.
"""

from __future__ import annotations

from collections import deque

from userfault.pager.core.advance import Advance
from userfault.pager.core.plan import UNLIMITED
from userfault.pager.core.planner import Books, Load, Run
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.trace import ASKED, BACKGROUND, STREAM

_SOON = 8  # runs that faults will want soon; the oldest is forgotten first


class Ahead:
    """A planner without its choice of what comes with a fault.

    `soon`: runs (first, end) of pages that faults will want next.
    """

    def __init__(self, books: Books) -> None:
        plan = books.plan
        self.background = plan.policy.background
        self.quiet = 0
        self.follows = False
        self.along: list[Run] = []
        self.why = BACKGROUND
        self.soon: deque[Run] = deque(maxlen=_SOON)
        self._books = books
        self._failures = books.failures
        self._plan = plan
        self._pages = books.pages
        self._room = UNLIMITED  # when `idle` was last asked
        self._wanted: deque[Run] = deque()
        self._advance = Advance(plan.layout, books.pages) if plan.layout else None

    # --- what comes with a fault -----------------------------------------------------------------

    def _company(self, page: int, first: int, last: int, advance: Advance) -> tuple[int, int]:
        """What to fill for a fault where [first, last) was chosen, of a source whose company is
        known: all that comes with `page` is filled with it.  What was chosen beyond that is read
        ahead, while the thread runs on."""
        pages = self._pages
        low, high, zeros = advance.at(page)
        if zeros:
            low, high = max(low, first), min(high, last)
        else:
            most = min(self._plan.window_pages, max(self._books.room, 1))
            low = page + 1 - pages.run_down(page, min(page + 1 - low, most), MISSING)
            high = page + pages.run(page, min(high - page, most), MISSING)
            if self.background:
                advance.met(page)
        if first < low:
            advance.streams.append((first, low))
        if last > high:
            advance.streams.append((high, last))
        return low, high

    def _next(self, page: int, state: int) -> int:
        """Where a stream that came to `page` will fault next: what is filled raises no fault."""
        found = self._pages.find(state, page, page + 8 * self._plan.window_pages)
        return page if found < 0 else found

    # --- in advance ------------------------------------------------------------------------------

    def settled(self, page: int, count: int, demand: bool) -> None:
        """What is settled, the states tell."""

    def time(self, now: float) -> None:
        """Nothing is timed."""

    def want(self, page: int, count: int) -> None:
        """Soon, after the faults that wait, before all else."""
        self._wanted.append((page, count))

    def forget(self) -> None:
        """Neither background nor prefetch any more."""
        self.background = False
        self._wanted.clear()
        self.soon.clear()
        if self._advance is not None:
            self._advance.streams.clear()

    @property
    def eager(self) -> bool:
        """Background, prefetch, or a stream that reads ahead."""
        streams = self._advance is not None and bool(self._advance.streams)
        return self.background or bool(self._wanted) or bool(self.soon) or streams

    @property
    def more(self) -> bool:
        """A layout is looked through in steps."""
        return self._advance is not None and self._advance.more

    def idle(self, load: Load) -> Run | None:
        """What was asked for, then (with `background`) what is left."""
        if load.room <= 0:
            return None
        self._room = load.room
        found = self._next_wanted()
        if found is None and self.background and load.background > 0:
            self._room = min(load.room, load.background)
            found = self._next_background(load)
        return found

    def _next_wanted(self) -> Run | None:
        if self._advance is not None:
            run = self._advance.stream()
            if run is not None:
                start, end = run
                self.why = STREAM
                length = self._chunk(start, end)
                if start + length < end:
                    self._advance.streams.append((start + length, end))
                return start, length
        while self.soon:
            first, end = self.soon.popleft()
            start = self._pages.find(MISSING, first, end)
            if start >= 0:
                self.why = STREAM
                length = self._chunk(start, self._alike(start, end))
                if start + length < end:
                    self.soon.appendleft((start + length, end))
                return start, length
        while self._wanted:
            page, count = self._wanted.popleft()
            start = self._pages.find(MISSING, page, page + count)
            if start >= 0:
                self.why = ASKED
                length = self._chunk(start, self._alike(start, page + count))
                self._wanted.appendleft((start + length, page + count - start - length))
                return start, length
        return None

    def _next_background(self, load: Load) -> Run | None:
        self.why = BACKGROUND
        if self._advance is not None:
            return self._next_known(self._advance, load)
        if load.full:
            return None
        start = self._pages.first(MISSING)
        if start >= 0:
            return start, self._chunk(start, self._pages.count)
        start = self._pages.first(CACHED)
        if start < 0:
            return None
        # To map a page takes a quarter of the time that it takes to copy it.
        limit = min(4 * self._chunk_limit(), self._room)
        return start, self._books.reachable(start, self._pages.run(start, limit, CACHED))

    def _next_known(self, advance: Advance, load: Load) -> Run | None:
        """Bytes while no read in advance is under way (the source itself reads on), else zeros."""
        advance.more = False
        reading = load.full or load.in_advance
        run = None if reading else advance.company() or advance.bytes()
        if run is None and not advance.more:
            run = advance.zeros()
        if run is None and not reading and not advance.more:
            start = self._pages.first(MISSING)  # what came back, as its read failed
            run = None if start < 0 else (start, self._alike(start, self._pages.count))
        if run is None:
            return None
        start, end = run
        return start, self._chunk(start, end)

    def _alike(self, start: int, end: int) -> int:
        """`end`, cut where pages are not filled as `start` is."""
        return end if self._advance is None else min(end, self._advance.at(start)[1])

    def _chunk(self, start: int, end: int) -> int:
        """How many MISSING pages from `start` make one background fill."""
        if start in self._failures:
            return 1
        limit = min(self._chunk_limit(), end - start, self._room)
        return self._books.reachable(start, self._pages.run(start, limit, MISSING))

    def _chunk_limit(self) -> int:
        """Small pieces where faults may be waiting; larger ones after a long time without any."""
        limit = self._plan.piece_pages(self.quiet)
        self.quiet += 1
        return limit
