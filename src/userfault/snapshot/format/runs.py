"""Runs of pages, in three columns: how many, what they are, and where.

The runs of an image tile it: each begins where the one before ends, so that none can overlap or
leave a gap.  Columns cost 13 bytes a run, where objects would cost 200.
"""

from __future__ import annotations

import enum
import sys
from array import array
from collections.abc import Iterator

WORD_BYTES = 8


class Kind(enum.IntEnum):
    """What a run of pages holds."""

    ZERO = 0  # zeros that were memory
    HOLE = 1  # nothing was ever there; reads as zeros
    PARENT = 2  # what the base holds at the same pages
    WORD = 3  # one 8-byte word over and over: the value
    CHUNK = 4  # pages of chunks, one after the other from the slot that is the value


# As plain numbers: an enum's member costs a look-up of 30 ns in loops over pages.
ZERO, HOLE, PARENT, WORD, CHUNK = (int(kind) for kind in Kind)

# No run is longer; a longer one is two.
MOST_COUNT = (1 << 32) - 1


class Runs:
    """The columns.  `append` joins a run to the last one where they continue each other."""

    def __init__(self) -> None:
        self.counts = array("I")
        self.kinds = bytearray()
        self.values = array("Q")

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """(count, kind, value) of each run."""
        return zip(self.counts, self.kinds, self.values, strict=True)

    def append(self, count: int, kind: int, value: int = 0) -> None:
        """`count` more pages."""
        if 0 < count <= MOST_COUNT:
            self._append(count, kind, value)
            return
        while count > 0:
            part = min(count, MOST_COUNT)
            self._append(part, kind, value)
            count -= part
            if kind == CHUNK:
                value += part

    def _append(self, count: int, kind: int, value: int) -> None:
        if self.kinds and self.kinds[-1] == kind:
            last = self.counts[-1]
            joined = last + count
            if joined <= MOST_COUNT and self.values[-1] + (last if kind == CHUNK else 0) == value:
                self.counts[-1] = joined
                return
        self.counts.append(count)
        self.kinds.append(kind)
        self.values.append(value)


def to_bytes(column: array[int]) -> bytes:
    """A column as it is stored: little-endian."""
    if sys.byteorder == "little":
        return column.tobytes()
    swapped = array(column.typecode, column)
    swapped.byteswap()
    return swapped.tobytes()


def from_bytes(typecode: str, data: bytes) -> array[int]:
    """The column of these bytes; ValueError where they are no multiple of an item."""
    column = array(typecode)
    column.frombytes(data)
    if sys.byteorder != "little":
        column.byteswap()
    return column
