"""How many pages to fill around a fault: doubling on order, one page on randomness.

A fault next to where the last window of some stream ended continues that stream: its window
doubles.  Any other fault starts a stream of one page, which may go either way.  Streams run up or
down (glibc's memcpy of large memory reads downwards), and several are kept, so that several
threads, each reading in order, do not look random together.
"""

from __future__ import annotations

STREAMS = 32  # streams remembered; the oldest is forgotten first


class Window:
    """The streams of one mapping.  `limit`: the largest window in pages."""

    __slots__ = ("_ends", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 1)
        # Outermost page of a stream -> its last window; below zero for one that goes down.
        self._ends: dict[int, int] = {}

    def at(self, page: int) -> int:
        """The window for a fault at `page`, in pages; below zero for one that ends there."""
        ends = self._ends
        last = ends.get(page - 1, 0)
        if last > 0:
            del ends[page - 1]
            return min(last * 2, self.limit)
        last = ends.get(page + 1, 0)
        if last < 0 or last == 1:
            del ends[page + 1]
            return -min(abs(last) * 2, self.limit)
        return 1

    def ended(self, page: int, window: int) -> None:
        """A stream has come to `page` with a window of `window` pages (below zero: downwards)."""
        ends = self._ends
        ends[page] = window
        if len(ends) > STREAMS:
            del ends[next(iter(ends))]
