"""What to fill next while nobody waits, of a source whose layout is known.

Bytes come in the order of their turns, so that each chunk is read and unpacked once; zeros, which
cost no read, come while a read is under way.  What a fault has had unpacked goes before all that:
the rest of its chunk, and what a stream of faults will want next.
"""

from __future__ import annotations

from collections import deque

from userfault.pager.core.layout import Layout, Stretch
from userfault.pager.core.states import MISSING, Pages

# Turns looked at in one call: after a takeover nearly all of them are done, and to pass by 100,000
# would take 60 ms, in which faults wait.
_STRIDE = 1024
_REMEMBERED = 8  # streams and chunks that faults have met; the oldest is forgotten first


class Advance:
    """The places up to which one mapping is filled.

    `more`: the last call found nothing because it stopped early, not because there is nothing.
    """

    def __init__(self, layout: Layout, pages: Pages) -> None:
        self._layout = layout
        self._pages = pages
        self._turn = 0
        self._zero_turn = 0
        self._companies: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # turns [first, last)
        self.streams: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # pages [first, last)
        self.more = False

    def at(self, page: int) -> Stretch:
        """The pages around `page` that are filled alike."""
        return self._layout.at(page)

    def met(self, page: int) -> None:
        """The chunk of `page` was unpacked for a fault: the rest of it costs no read now."""
        first, last = self._layout.company(page)
        if last - first > 1:
            self._companies.append((first, last))

    def stream(self) -> tuple[int, int] | None:
        """The next missing pages [start, end) that a stream of faults will want."""
        while self.streams:
            first, last = self.streams.pop()
            start = self._pages.find(MISSING, first, last)
            if start >= 0:
                end = min(self._layout.at(start)[1], last)
                if end < last:
                    self.streams.append((end, last))
                return start, end
        return None

    def company(self) -> tuple[int, int] | None:
        """The next missing pages [start, end) of a chunk that a fault has met."""
        while self._companies:
            first, last = self._companies.pop()
            while first < last:
                found = self._missing(*self._layout.turn(first))
                if found is not None:
                    self._companies.append((first, last))
                    return found
                first += 1
        return None

    def bytes(self) -> tuple[int, int] | None:
        """The next missing pages [start, end) that are bytes, in the order of their turns."""
        self.more = False
        layout = self._layout
        stop = min(self._turn + _STRIDE, layout.turns)
        while self._turn < stop:
            found = self._missing(*layout.turn(self._turn))
            if found is not None:
                return found
            self._turn += 1
        self.more = self._turn < layout.turns
        return None

    def zeros(self) -> tuple[int, int] | None:
        """The next missing pages [start, end) that are zeros."""
        self.more = False
        layout = self._layout
        stop = min(self._zero_turn + _STRIDE, layout.zero_turns)
        while self._zero_turn < stop:
            found = self._missing(*layout.zero_turn(self._zero_turn))
            if found is not None:
                return found
            self._zero_turn += 1
        self.more = self._zero_turn < layout.zero_turns
        return None

    def _missing(self, page: int, count: int) -> tuple[int, int] | None:
        start = self._pages.find(MISSING, page, page + count)
        return None if start < 0 else (start, page + count)
