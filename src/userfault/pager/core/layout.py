"""What is known of a source before anything of it is read: which pages are zeros, and which bytes
come together.

A source that is stored in chunks gives many pages for the price of one: whoever reads one page has
its whole chunk in hand.  The pages of one chunk may lie scattered over the memory, in runs.  A page
that is known to be zeros costs no read at all.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

# Pages [low, high) that are filled alike, and whether they are zeros; bytes come by one read.
Stretch: TypeAlias = tuple[int, int, bool]


class Layout(Protocol):
    """A source that is known in advance, in pages of the memory that it fills.  No method blocks.

    `turns`: how many stretches of bytes there are.  They are numbered in the order in which they
    are read best: those that come from one chunk follow upon each other.  `zero_turns`: how many
    stretches of zeros there are.
    """

    turns: int
    zero_turns: int

    def at(self, page: int) -> Stretch:
        """The longest stretch that holds `page`."""

    def turn(self, number: int) -> tuple[int, int]:
        """First page and count of the stretch of bytes whose turn is `number`."""

    def zero_turn(self, number: int) -> tuple[int, int]:
        """First page and count of a stretch of zeros."""

    def company(self, page: int) -> tuple[int, int]:
        """The turns [first, last) of the stretches that come from the same chunk as `page`."""
