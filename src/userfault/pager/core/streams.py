"""Faults in a row: how far each row has come, and how many pages a new one is worth.

A fault next to where the last window of some stream ended continues that stream: its window
doubles.  Streams run up or down (glibc's memcpy of large memory reads downwards), and several are
kept, so that several threads, each reading in order, do not look random together.

Where any other fault begins a stream, the first window is the one that costs least, by how long
streams were of late: short runs of ten pages are worth one window of sixteen, single pages one
page.  What was filled at once tells nothing of that; so one stream in sixteen (of the first, one in
four) begins with a single page, and those are what is learned from.
"""

from __future__ import annotations

import itertools

from userfault.pager.core.plan import Counters

STREAMS = 32  # streams remembered; the oldest is forgotten first
_TRY, _EARLY = 16, 4
_RARE = 0.5
_LOOK = 64  # streams from one look at their lengths to the next
_KINDS = 8  # of lengths: 1, 2 and 3, 4 to 7, ... 128 and more
_LENGTHS = (1.0, 2.5, 5.5, 11.5, 23.5, 47.5, 95.5, 191.5)
_REMEMBERED = 64.0


class Streams:
    """The streams of one mapping.  `limit`: the largest window in pages.

    `best`: what a new stream begins with.
    """

    __slots__ = (
        "_begun",
        "_counters",
        "_ends",
        "_enough",
        "_known",
        "_news",
        "_reached",
        "_steps",
        "_tried",
        "best",
        "limit",
    )

    def __init__(self, limit: int, counters: Counters) -> None:
        self.limit = max(limit, 1)
        self.best = 1
        self._counters = counters
        self._enough = 0  # a first window, if streams that are longer are rare
        # Outermost page of a stream -> its last window, below zero for one that goes down.
        self._ends: dict[int, int] = {}
        self._known: dict[int, int] = {}  # the same -> its faults, of those that began with a page
        self._steps = 0  # of the stream that is being served
        self._begun = 0
        self._tried = 0  # streams that began with one page, since the last look
        self._news = False  # a stream was longer, since the last look
        # How many of them came to their first, second, ... window: nothing is known to be in order.
        self._reached = [4.0] + [0.0] * _KINDS

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

    def outrun(self, end: int, left: int) -> int:
        """The window of the stream that was to have come to page `end` and has still `left` pages
        to go (below zero: downwards); 0 where there is none."""
        last = self._ends.get(end, 0)
        if last * left <= 0:
            return 0
        del self._ends[end]
        window = self._goes_on(end, abs(last), abs(left))
        return window if left > 0 else -window

    def _goes_on(self, end: int, window: int, left: int = 0) -> int:
        steps = self._known.pop(end, 0)
        steps = self._steps = 2 if window == 1 else steps + 1 if steps else 0
        if 0 < steps <= _KINDS:
            self._reached[steps - 1] += 1
            self._news = True
        self._counters.proved += max(window - 1 - left, 0)
        if window == self._enough and not steps:
            return min(window + 1, self.limit)  # once more the same, and then as ever
        return min(window * 2, self.limit)

    def begin(self, ratio: float) -> int:
        """The window of a new stream, where a fault costs as much as `ratio` pages."""
        begun = self._begun = self._begun + 1
        self._steps = 0
        early = begun < _LOOK
        if self._news and begun % (_EARLY if early else _LOOK) == 0:
            self._look(ratio)
        if self.best > 1 and begun % (_EARLY if early else _TRY):
            return self.best
        self._tried += 1
        return 1

    def ended(self, page: int, window: int) -> None:
        """A stream has come to `page` with a window of `window` pages (below zero: downwards)."""
        ends = self._ends
        ends[page] = window
        if self._steps:
            self._known[page] = self._steps
            self._steps = 0
        if len(ends) > STREAMS:
            first = next(iter(ends))
            del ends[first]
            self._known.pop(first, 0)

    def moved(self, page: int, further: int) -> None:
        """The stream that has come to `page`, if there is one, has come `further`."""
        window = self._ends.pop(page, 0)
        if window:
            self._ends[further] = window
            if steps := self._known.pop(page, 0):
                self._known[further] = steps

    def _look(self, ratio: float) -> None:
        """The first window that costs least, over the lengths that were seen.

        Streams that are still going on count as if they ended here: it will be seen when not.
        """
        reached = self._reached
        reached[0] += self._tried
        self._tried = 0
        if reached[0] > _REMEMBERED:
            reached = self._reached = [each / 2 for each in reached]
        often = [max(here - later, 0.0) for here, later in itertools.pairwise(reached)]
        best, least, window = 1, _price(often, 1, ratio, self.limit), 2
        while window <= self.limit:
            price = _price(often, window, ratio, self.limit)
            if price < least:
                best, least = window, price
            window *= 2
        self.best = best
        step = best.bit_length() - 1
        rare = step > 0 and reached[step] < _RARE * reached[step - 1]
        self._enough = best if rare else 0
        self._news = best > 1


def _price(often: list[float], window: int, ratio: float, limit: int) -> float:
    """What streams of the lengths seen cost with that first window, in pages."""
    price = 0.0
    for times, length in zip(often, _LENGTHS, strict=True):
        faults, filled, step = 1, window, window
        while filled < length:
            step = min(step * 2, limit)
            filled += step
            faults += 1
        price += times * (faults * ratio + filled)
    return price
