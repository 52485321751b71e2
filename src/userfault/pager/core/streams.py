"""Faults in a row: how far each row has come, and how many pages a new one is worth.

A fault next to where the last window of some stream ended continues that stream: its window
doubles.  Streams run up or down (glibc's memcpy of large memory reads downwards), and several are
kept, so that several threads, each reading in order, do not look random together.

Where any other fault begins a stream, the first window is the one that costs least, by how long
streams were of late: short runs of ten pages are worth one window of sixteen, single pages one
page.  What was filled at once tells nothing of that; so one stream in sixteen begins with a single
page, and those are what is learned from.
"""

from __future__ import annotations

STREAMS = 32  # streams remembered; the oldest is forgotten first
_TRY = 16
_KINDS = 8  # of lengths: 1, 2 and 3, 4 to 7, ... 128 and more
_LENGTHS = (1.0, 2.5, 5.5, 11.5, 23.5, 47.5, 95.5, 191.5)
_REMEMBERED = 64.0


class Streams:
    """The streams of one mapping.  `limit`: the largest window in pages.

    `best`: what a new stream begins with.  `went_on`: pages of windows that were filled in hope and
    proved right, as the stream went on; `ended_in`: those of the last window of each, for which
    nobody has come.
    """

    __slots__ = (
        "_begun",
        "_ends",
        "_known",
        "_lengths",
        "_news",
        "_singles",
        "_steps",
        "best",
        "ended_in",
        "limit",
        "went_on",
    )

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 1)
        self.best = 1
        self.went_on = self.ended_in = 0
        # Outermost page of a stream -> its last window, below zero for one that goes down.
        self._ends: dict[int, int] = {}
        self._known: dict[int, int] = {}  # the same -> its faults, of those that began with a page
        self._steps = 0  # of the stream that is being served
        self._begun = 0
        self._news = False  # a stream was longer, since the last look
        self._singles = 0  # streams that were one page, since the last look
        self._lengths = [8.0] + [0.0] * (_KINDS - 1)  # how often: nothing is known to be in order

    def at(self, page: int) -> int:
        """The window of the stream that comes to `page`, in pages; below zero where it ends there,
        0 where none comes."""
        ends = self._ends
        last = ends.get(page - 1, 0)
        if last > 0:
            del ends[page - 1]
            return self._goes_on(page - 1, last)
        last = ends.get(page + 1, 0)
        if last < 0 or last == 1:
            del ends[page + 1]
            return -self._goes_on(page + 1, abs(last))
        return 0

    def _goes_on(self, end: int, window: int) -> int:
        steps = self._known.pop(end, 0)
        self._steps = 2 if window == 1 else steps + 1 if steps else 0
        self.went_on += window - 1
        return min(window * 2, self.limit)

    def begin(self, ratio: float) -> int:
        """The window of a new stream, where a fault costs as much as `ratio` pages."""
        self._begun += 1
        self._steps = 0
        if self._begun % _TRY == 0:
            if self._news and (self._begun % (4 * _TRY) == 0 or self._begun < 8 * _TRY):
                self._look(ratio)
            return 1
        return self.best

    def ended(self, page: int, window: int) -> None:
        """A stream has come to `page` with a window of `window` pages (below zero: downwards)."""
        ends = self._ends
        ends[page] = window
        if self._steps:
            self._known[page] = self._steps
            self._steps = 0
        if len(ends) > STREAMS:
            first = next(iter(ends))
            window = ends.pop(first)
            if window == 1:
                self._singles += 1
            else:
                self._forget(first, window)

    def _forget(self, page: int, window: int) -> None:
        """A stream has not gone on: learn how long it was, if it had begun with one page."""
        self.ended_in += abs(window) - 1
        steps = self._known.pop(page, 0)
        if steps:
            self._lengths[min(steps, _KINDS) - 1] += 1
            self._news = True

    def _look(self, ratio: float) -> None:
        """The first window that costs least, over the lengths that were seen."""
        lengths = self._lengths
        lengths[0] += self._singles
        self._singles = 0
        if sum(lengths) > _REMEMBERED:
            self._lengths = [each / 2 for each in lengths]
        best, least, window = 1, self._price(1, ratio), 2
        while window <= self.limit:
            price = self._price(window, ratio)
            if price < least:
                best, least = window, price
            window *= 2
        self.best = best
        self._news = best > 1

    def _price(self, window: int, ratio: float) -> float:
        """What streams of the lengths seen cost with that first window, in pages."""
        price = 0.0
        for often, length in zip(self._lengths, _LENGTHS, strict=True):
            faults, filled, step = 1, window, window
            while filled < length:
                step = min(step * 2, self.limit)
                filled += step
                faults += 1
            price += often * (faults * ratio + filled)
        return price
