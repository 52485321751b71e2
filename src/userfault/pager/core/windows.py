"""Windows that grow with order: doubling while faults come in a row, one page on randomness."""

from __future__ import annotations

from userfault.pager.core.ahead import Ahead
from userfault.pager.core.planner import Books, Run
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.window import Window


class WindowPlanner(Ahead):
    """The planner of before: what others are compared with (`userfault plan --policy order`)."""

    def __init__(self, books: Books) -> None:
        super().__init__(books)
        self._window = Window(books.plan.window_pages)

    def fault(self, page: int) -> Run:
        """A window around it; what is known of the source may say better."""
        if page in self._failures:
            return page, 1
        window = self._at(page)
        pages = self._pages
        if window < 0:
            first, last = page + 1 - pages.run_down(page, -window, MISSING), page + 1
        else:
            first, last = page, page + (pages.run(page, window, MISSING) if window > 1 else 1)
        low, high = first, last
        if self._advance is not None:
            low, high = self._company(page, first, last, self._advance)
        if window < 0:
            self._window.ended(min(first, low), window)
        else:
            end = max(last, high)
            if end < pages.count and pages.states[end] != MISSING:
                end = self._next(end, MISSING)
            self._window.ended(end - 1, window)
        return low, high - low

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
