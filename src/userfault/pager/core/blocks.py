"""The aligned block around a fault, whatever came before: what others do, to be compared with."""

from __future__ import annotations

from userfault.pager.core.ahead import Ahead
from userfault.pager.core.planner import Books, Run
from userfault.pager.core.states import CACHED, MISSING


class BlockPlanner(Ahead):
    """Blocks of `size` pages, as far as no page of them is settled."""

    def __init__(self, books: Books, size: int) -> None:
        super().__init__(books)
        self._size = size

    def fault(self, page: int) -> Run:
        """The block; what is known of the source may say better."""
        if page in self._failures:
            return page, 1
        first, last = self._block(page, MISSING)
        if self._advance is not None:
            first, last = self._company(page, first, last, self._advance)
        return first, last - first

    def minor(self, page: int) -> Run:
        """The block."""
        first, last = self._block(page, CACHED)
        return first, last - first

    def _block(self, page: int, state: int) -> tuple[int, int]:
        size = self._size
        if not 1 < size <= self._books.room:
            return page, page + 1
        low = page - page % size
        first = page + 1 - self._pages.run_down(page, page + 1 - low, state)
        return first, page + self._pages.run(page, low + size - page, state)
