"""The first touches of a mapping as they are noted: a byte a page, in memory that outlives a
worker."""

from __future__ import annotations

from typing import Protocol

UNTOUCHED = 0  # else it is one more than the class of the first touch


class Bytes(Protocol):
    """Where notes are made."""

    def __getitem__(self, at: int, /) -> int: ...
    def __setitem__(self, at: int, value: int, /) -> None: ...


class Touches:
    """The first touches of one mapping, all its contexts together.  Who knows the time sets it.

    `held`: one byte a page.  `now`: the class of the time that has come.  `over`: nothing is
    recorded any more.  `noted`: how many pages were, by this worker.
    """

    __slots__ = ("held", "noted", "now", "over")

    def __init__(self, held: Bytes, *, over: bool = False) -> None:
        self.held = held
        self.now = 0
        self.over = over
        self.noted = 0

    def note(self, page: int, count: int = 1) -> None:
        """Pages were touched, some of them for the first time."""
        held, mark = self.held, self.now + 1
        for each in range(page, page + count):
            if held[each] == UNTOUCHED:
                held[each] = mark
                self.noted += 1
