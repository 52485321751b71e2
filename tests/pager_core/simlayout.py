"""A layout of pages for the simulation: zeros here and there, and stretches of two chunks."""

from __future__ import annotations


class SimLayout:
    """Of `pages` pages, those of every third pair are zeros.  The others are stretches of at most
    three pages; the even ones come from one chunk, the odd ones from another."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self.zeros = frozenset(page for page in range(pages) if page // 2 % 3 == 1)
        self._stretches = list(self._runs(zeros=False, most=3))
        self._zeros = list(self._runs(zeros=True, most=pages))
        self._even = self._stretches[::2]
        self._turns = self._even + self._stretches[1::2]
        self.turns = len(self._turns)
        self.zero_turns = len(self._zeros)

    def at(self, page: int) -> tuple[int, int, bool]:
        """See `pager.core.layout.Layout`."""
        for start, count in self._stretches + self._zeros:
            if start <= page < start + count:
                return start, start + count, page in self.zeros
        raise IndexError(page)

    def turn(self, number: int) -> tuple[int, int]:
        """See `Layout`."""
        return self._turns[number]

    def zero_turn(self, number: int) -> tuple[int, int]:
        """See `Layout`."""
        return self._zeros[number]

    def company(self, page: int) -> tuple[int, int]:
        """See `Layout`."""
        if page in self.zeros:
            return 0, 0
        low, high, _ = self.at(page)
        even = (low, high - low) in self._even
        return (0, len(self._even)) if even else (len(self._even), self.turns)

    def _runs(self, *, zeros: bool, most: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for page in range(self._pages):
            if (page in self.zeros) is not zeros:
                continue
            if found and sum(found[-1]) == page and found[-1][1] < most:
                found[-1] = found[-1][0], found[-1][1] + 1
            else:
                found.append((page, 1))
        return found
