"""Windows that grow with order, what was asked for, then everything, in pieces."""

from __future__ import annotations

from collections import deque

from userfault.pager.core.advance import Advance
from userfault.pager.core.plan import UNLIMITED
from userfault.pager.core.planner import Books, Load, Run
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.trace import ASKED, BACKGROUND, STREAM
from userfault.pager.core.window import Window

# After so many background fills without a fault (16 MiB at the default size, some 5 ms) they are
# made larger: a fault that comes then waits up to 0.3 ms, once.
_QUIET_CHUNKS = 64
_QUIET_FACTOR = 4


class WindowPlanner:
    """See the top of this file."""

    def __init__(self, books: Books) -> None:
        plan = books.plan
        self.background = plan.policy.background
        self._books = books
        self._failures = books.failures
        self._plan = plan
        self._pages = books.pages
        self._window = Window(plan.window_pages)
        self._room = UNLIMITED  # when `idle` was last asked
        self.quiet = 0
        self.follows = False
        self.why = BACKGROUND
        self._wanted: deque[Run] = deque()
        self._advance = Advance(plan.layout, books.pages) if plan.layout else None

    # --- with a fault ----------------------------------------------------------------------------

    def fault(self, page: int) -> Run:
        """A window around it; what is known of the source may say better."""
        if page in self._failures:
            return page, 1
        window = self._at(page)
        if self._advance is not None:
            return self._stretch(page, window, self._advance)
        if window < 0:
            count = self._pages.run_down(page, -window, MISSING)
            first = page - count + 1
            self._window.ended(first, window)
            return first, count
        pages = self._pages
        count = pages.run(page, window, MISSING) if window > 1 else 1
        end = page + count
        if end < pages.count and pages.states[end] != MISSING:
            end = self._next_missing(end)
        self._window.ended(end - 1, window)
        return page, count

    def minor(self, page: int) -> Run:
        """A window of pages that are complete."""
        window = self._at(page)
        if window < 0:
            count = self._pages.run_down(page, -window, CACHED)
            page -= count - 1
            self._window.ended(page, window)
        else:
            count = self._pages.run(page, window, CACHED)
            self._window.ended(page + count - 1, window)
        return page, count

    def _at(self, page: int) -> int:
        """The window for a fault at `page`, as far as there is room."""
        window = self._window.at(page)
        most = max(self._books.room, 1)
        return max(min(window, most), -most)

    def _stretch(self, page: int, window: int, advance: Advance) -> Run:
        """A missing fault on a page whose company is known: all that comes with it is filled with
        it.  What the window has beyond that is read ahead, while the thread runs on."""
        pages = self._pages
        low, high, zeros = advance.at(page)
        if window < 0:
            first, last = page + 1 - pages.run_down(page, -window, MISSING), page + 1
        else:
            first, last = page, page + pages.run(page, window, MISSING)
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
        elif last > high:
            advance.streams.append((high, last))
        if window < 0:
            self._window.ended(min(first, low), window)
        else:
            end = max(last, high)
            if end < pages.count and pages.states[end] != MISSING:
                end = self._next_missing(end)
            self._window.ended(end - 1, window)
        return low, high - low

    def _next_missing(self, page: int) -> int:
        """Where a stream that came to `page` will fault next: what is filled raises no fault."""
        found = self._pages.find(MISSING, page, page + 8 * self._window.limit)
        return page if found < 0 else found

    # --- in advance ------------------------------------------------------------------------------

    def settled(self, page: int, count: int, demand: bool) -> None:
        """Windows look at the states."""

    def time(self, now: float) -> None:
        """Windows have no clock."""

    def want(self, page: int, count: int) -> None:
        """Soon, after the faults that wait, before all else."""
        self._wanted.append((page, count))

    def forget(self) -> None:
        """Neither background nor prefetch any more."""
        self.background = False
        self._wanted.clear()
        if self._advance is not None:
            self._advance.streams.clear()

    @property
    def eager(self) -> bool:
        """Background, prefetch, or a stream that reads ahead."""
        streams = self._advance is not None and bool(self._advance.streams)
        return self.background or bool(self._wanted) or streams

    @property
    def more(self) -> bool:
        """A layout is looked through in steps."""
        return self._advance is not None and self._advance.more

    def idle(self, load: Load) -> Run | None:
        """What was asked for, then (with `background`) what is left."""
        if load.room <= 0:
            return None
        self._room = load.room
        return self._next_wanted() or (self._next_background(load) if self.background else None)

    def _next_wanted(self) -> Run | None:
        if self._advance is not None:
            run = self._advance.stream()
            if run is not None:
                start, end = run
                self.why = STREAM
                return start, self._chunk(start, end)
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
        self.quiet += 1
        quiet = self.quiet > _QUIET_CHUNKS and not self._plan.source_fetches
        return self._plan.chunk_pages * (_QUIET_FACTOR if quiet else 1)
