"""Windows by cost: with a fault comes the run that makes the expected time shortest.

A fault costs what some twelve pages cost (`costs`), so a page is worth filling in advance as soon
as one in twelve like it will be touched.  Streams tell that of pages in a row (`streams`), blocks
of pages that lie near each other (`density`).
"""

from __future__ import annotations

from userfault.pager.core.actions import CONTINUE, COPY
from userfault.pager.core.ahead import Ahead
from userfault.pager.core.density import Density, Experience
from userfault.pager.core.plan import Plan
from userfault.pager.core.planner import Books, Run
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.streams import Streams

# A stream that has had so many faults in a row to itself has windows of up to four: a fault of
# another thread then waits up to 0.4 ms, once.
_ALONE = 8
_ALONE_FACTOR = 4
_LONG = 12  # pages


class CostPlanner(Ahead):
    """Fills with a fault at most a window, and has the rest of a block filled soon after.

    `blocks`: whether pages that lie near each other are filled together, or streams alone.
    """

    def __init__(self, books: Books, *, blocks: bool = True) -> None:
        super().__init__(books)
        self._blocks = blocks
        self._most = books.plan.window_pages
        self._streams = Streams(self._most, books.counters)
        self._density = Density(books.pages.count, self._most, _experience_of(books.plan))
        self._alone = 0  # faults in a row that went on with a stream
        self._costs = books.costs

    def fault(self, page: int) -> Run:
        """A run around it; what is known of the source may say better."""
        if page in self._failures:
            return page, 1
        first, last = self._chosen(page, MISSING, self._costs.of(COPY))
        if self._advance is not None:
            low, high = self._company(page, first, last, self._advance)
            self._come_further((first, last), (low, high))
            first, last = low, high
        return first, last - first

    def _come_further(self, chosen: tuple[int, int], filled: tuple[int, int]) -> None:
        """More is filled than was chosen: a stream goes on behind that."""
        (first, last), (low, high) = chosen, filled
        if high > last:
            end, pages = high, self._pages
            if end < pages.count and pages.states[end] != MISSING:
                end = self._next(end, MISSING)
            self._streams.moved(last - 1, end - 1)
        if low < first:
            self._streams.moved(first, low)

    def minor(self, page: int) -> Run:
        """The same of pages that are complete, which cost less."""
        first, last = self._chosen(page, CACHED, self._costs.of(CONTINUE))
        return first, last - first

    def _chosen(self, page: int, state: int, ratio: float) -> tuple[int, int]:
        """Pages [first, last) in `state`, with `page`."""
        streams = self._streams
        window = streams.at(page) or (self._outrun(page) if state == MISSING else 0)
        if window:
            self._alone += 1
            return self._stream(page, window, state)
        self._alone = 0
        # Where streams are long, what is touched lies in them, and the rest of a block is not.
        if self._blocks and streams.best < _LONG and self._most > 1:
            size = self._density.around(page, ratio)
            if size > 1:
                return self._block(page, size, state)
        window = streams.begin(ratio)
        if window > 1:
            return self._stream(page, window, state)
        end = page + 1
        if end < self._pages.count and self._pages.states[end] != state:
            end = self._next(end, state)
        streams.ended(end - 1, 1)
        return page, page + 1

    def _outrun(self, page: int) -> int:
        """The window of a stream whose thread is faster than what is read ahead for it: it comes to
        `page`, which it was to find filled.  Below zero where it goes down; 0 where none comes."""
        pages, streams = self._pages, self._streams
        for runs in (self.soon, self._advance.streams if self._advance is not None else ()):
            for low, high in runs:
                if not low <= page < high:
                    continue
                if pages.find(MISSING, low, page) < 0:
                    window = streams.outrun(high - 1, high - page)
                    if window:
                        return window
                if pages.find(MISSING, page + 1, high) < 0:
                    window = streams.outrun(low, low - page - 1)
                    if window:
                        return window
        return 0

    def _stream(self, page: int, window: int, state: int) -> tuple[int, int]:
        """The next window of a stream."""
        pages = self._pages
        size = abs(window)
        if self._alone > _ALONE and size == self._most > 1:
            size *= _ALONE_FACTOR
        size = min(size, max(self._books.room, 1))
        if window < 0:
            first = page + 1 - pages.run_down(page, size, state)
            self._streams.ended(first, window)
            return first, page + 1
        last = page + (pages.run(page, size, state) if size > 1 else 1)
        end = last
        if end < pages.count and pages.states[end] != state:
            end = self._next(end, state)
        self._streams.ended(end - 1, window)
        return page, last

    def go_on(self, first: int, count: int, *, up: bool) -> None:
        """The stream whose window this is will want as much again: soon, and it comes from there
        then."""
        low, high = (first + count, first + 2 * count) if up else (first - count, first)
        low, high = max(low, 0), min(high, self._pages.count)
        if low < high:
            self.soon.append((low, high))
            window = self._most if up else -self._most
            self._streams.ended(high - 1 if up else low, window)

    def _block(self, page: int, size: int, state: int) -> tuple[int, int]:
        """The aligned `size` pages around it: what is at hand of a window now, the rest soon."""
        pages = self._pages
        if size > self._books.room:
            return page, page + 1
        self._books.counters.spared = int(self._density.spared)
        now = min(size, self._most)
        low = page - page % now
        first = page + 1 - pages.run_down(page, page + 1 - low, state)
        last = page + pages.run(page, min(low + now, pages.count) - page, state)
        low = page - page % size
        high = min(low + size, pages.count)
        if state == MISSING:
            if size > now:
                self.soon.append((low, high))
            elif low < first or last < high:  # in pieces, by what has been filled there
                runs = pages.runs(low, high - low, MISSING)
                self.along = [run for run in runs if run[0] != first]
        self._streams.ended(high - 1, now)
        self._streams.ended(low, -now)
        return first, last


def _experience_of(plan: Plan) -> Experience | None:
    """What is known from other memories that show its image."""
    if plan.experiences is None:
        return None
    block = plan.window_pages
    if block not in plan.experiences:
        plan.experiences[block] = Experience(block)
    return plan.experiences[block]
