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
from operator import add
from typing import TypeAlias

Run: TypeAlias = tuple[int, int]  # first page, count

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
        self._sorted: tuple[list[int], list[int]] | None = None  # firsts and counts, by page

    def group(self, number: int) -> Sequence[Run]:
        """The runs (first page, count) of a group."""
        low = self._ends[number - 1] if number else 0
        high = self._ends[number]
        return list(zip(self._firsts[low:high], self._counts[low:high], strict=True))

    def has(self, page: int) -> bool:
        """Whether a page is in one of the runs (which do not lie over each other, but where
        somebody else made them so)."""
        if self._sorted is None:  # not before it is asked for: a restore may raise no fault at all
            runs = sorted(zip(self._firsts, self._counts, strict=True))
            self._sorted = [first for first, _ in runs], [count for _, count in runs]
        firsts, counts = self._sorted
        at = bisect_right(firsts, page) - 1
        return at >= 0 and page < firsts[at] + counts[at]

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
    runs = [run for group in groups for run in group]
    ends, end = array("I"), 0
    for group in groups:
        end += len(group)
        ends.append(end)
    columns = [
        array("I", [first for first, _ in runs]),
        array("I", [count for _, count in runs]),
        ends,
        array("I", sample),
    ]
    head = _HEADER.pack(len(runs), len(groups), len(sample))
    return head + b"".join(column.tobytes() for column in columns)
