"""How many pages to fill around a fault: doubling on order, one page on randomness.

A fault next to where the last window of some stream ended continues that stream: its window
doubles.  Any other fault starts a stream, which may go either way.  Streams run up or down
(glibc's memcpy of large memory reads downwards), and several are kept, so that several threads,
each reading in order, do not look random together.

A stream starts with one page; where most streams of late went on, it starts with up to four, so
that short runs take two faults and not four.
"""

from __future__ import annotations

STREAMS = 32  # streams remembered; the oldest is forgotten first
_START_LIMIT = 4
_SHARE = 1 / 16  # how much one stream counts in the average


class Window:
    """The streams of one mapping.  `limit`: the largest window in pages."""

    __slots__ = ("_ends", "_went_on", "limit", "start")

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 1)
        self.start = 1  # the window of a new stream
        # Outermost page of a stream -> its last window; below zero for one that goes down.
        self._ends: dict[int, int] = {}
        # Rises when a stream goes on for the first time, falls when one starts: 0.5 if all do, 0
        # if none does.
        self._went_on = 0.0

    def at(self, page: int) -> int:
        """The window for a fault at `page`, in pages; below zero for one that ends there."""
        ends = self._ends
        last = ends.get(page - 1, 0)
        if last > 0:
            del ends[page - 1]
            if last == self.start:
                self._went_on += (1 - self._went_on) * _SHARE
            return min(last * 2, self.limit)
        last = ends.get(page + 1, 0)
        if last < 0 or last == 1:
            del ends[page + 1]
            if last == 1:
                self._went_on += (1 - self._went_on) * _SHARE
            return -min(abs(last) * 2, self.limit)
        self._went_on -= self._went_on * _SHARE
        if self._went_on < 0.25:
            self.start = 1
        elif self._went_on > 0.4:
            self.start = min(_START_LIMIT, self.limit)
        return self.start

    def ended(self, page: int, window: int) -> None:
        """A stream has come to `page` with a window of `window` pages (below zero: downwards)."""
        ends = self._ends
        ends[page] = window
        if len(ends) > STREAMS:
            del ends[next(iter(ends))]
