"""How many pages to fill around a fault: doubling on order, one page on randomness.

A fault where the last window of some stream ended continues that stream: its window doubles.  Any
other fault starts a stream of one page.  Several streams are kept, so that several threads, each
reading in order, do not look random together.
"""

from __future__ import annotations

STREAMS = 32  # streams remembered; the oldest is forgotten first


class Window:
    """The streams of one mapping.  `limit`: the largest window in pages."""

    __slots__ = ("_expected", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 1)
        self._expected: dict[int, int] = {}  # page where a stream goes on -> its last window

    def at(self, page: int) -> int:
        """The window for a fault at `page`, in pages."""
        last = self._expected.pop(page, 0)
        return min(last * 2, self.limit) if last else 1

    def filled(self, expected: int, count: int) -> None:
        """A window of `count` pages was chosen; its stream goes on at page `expected`."""
        streams = self._expected
        streams[expected] = count
        if len(streams) > STREAMS:
            del streams[next(iter(streams))]
