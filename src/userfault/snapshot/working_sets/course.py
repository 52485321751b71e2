"""The course of a replay: the runs of pages that come ahead of the faults, in their order.

It is made once, by whoever opens the image, and lies in a sealed memfd, as the table of an image
does: the pager's worker has nothing to work out, and one that goes on for a killed one has the
same.

Runs are put together in groups.  A group is one look at the source: of a snapshot the runs of one
chunk, whenever each of them is touched, so that a chunk is read and unpacked once.  Groups come in
the order of the first touch of any of their pages.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from operator import add
from typing import TypeAlias

Run: TypeAlias = tuple[int, int]  # first page, count
Columns: TypeAlias = "tuple[array[int], array[int]]"  # first pages, counts

_LONGEST = 1 << 32  # pages of a run are counted in 32 bits
_HEADER = struct.Struct("=QQQ")  # runs, groups, pages of the sample


class Course:
    """What `build` made, read where it lies.

    `groups`: how many there are.  `sample`: pages that are left out.
    """

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        view = memoryview(buffer)
        runs, self.groups, sample = _HEADER.unpack_from(view)
        at = _HEADER.size
        columns = []
        for count in (runs, runs, self.groups, sample):
            columns.append(view[at : at + 4 * count].cast("I"))
            at += 4 * count
        self._firsts, self._counts, self._ends, left_out = columns
        self.sample: Collection[int] = list(left_out)
        self._sorted: list[Run] = []

    def group(self, number: int) -> Sequence[Run]:
        """The runs (first page, count) of a group."""
        low = self._ends[number - 1] if number else 0
        high = self._ends[number]
        return self._runs(low, high)

    def has(self, page: int) -> bool:
        """Whether a page is in one of the runs (which do not lie over each other, but where
        somebody else made them so)."""
        if not self._sorted:  # not before it is asked for: a restore may raise no fault at all
            self._sorted = sorted(self._runs(0, len(self._firsts)))
        at = bisect_right(self._sorted, (page, _LONGEST)) - 1
        return at >= 0 and page < sum(self._sorted[at])

    def _runs(self, low: int, high: int) -> list[Run]:
        firsts, counts = self._firsts[low:high], self._counts[low:high]
        return list(zip(firsts.tolist(), counts.tolist(), strict=True))

    def fits(self, pages: int) -> bool:
        """Whether it is for memory of so many pages, and may be followed there."""
        ends = list(self._ends)
        if ends != sorted(ends) or (ends[-1] if ends else 0) != len(self._firsts):
            return False
        firsts, counts = self._firsts.tolist(), self._counts.tolist()
        if 0 in counts:
            return False
        behind = max(map(add, firsts, counts), default=0)
        return behind <= pages and max(self.sample, default=0) < pages


def written(groups: Sequence[Sequence[Run]], sample: Sequence[int]) -> bytes:
    """The buffer of these groups; `sample`: pages that are left out."""
    ends = array("I", accumulate(map(len, groups)))
    return put(columns([run for group in groups for run in group]), ends, array("I", sample))


def columns(runs: Sequence[Run]) -> Columns:
    """Runs as columns."""
    return array("I", [first for first, _ in runs]), array("I", [count for _, count in runs])


def put(runs: Columns, ends: array[int], sample: array[int]) -> bytes:
    """The buffer of the runs of all groups, one group after the other.  `ends`: of each, as a
    number of runs."""
    firsts, counts = runs
    head = _HEADER.pack(len(firsts), len(ends), len(sample))
    return head + b"".join(column.tobytes() for column in (firsts, counts, ends, sample))
