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
from collections.abc import Collection, Sequence
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

    def group(self, number: int) -> Sequence[Run]:
        """The runs (first page, count) of a group."""
        low = self._ends[number - 1] if number else 0
        high = self._ends[number]
        return list(zip(self._firsts[low:high], self._counts[low:high], strict=True))

    def fits(self, pages: int) -> bool:
        """Whether it is for memory of so many pages, and may be followed there."""
        ends = list(self._ends)
        if ends != sorted(ends) or (ends[-1] if ends else 0) != len(self._firsts):
            return False
        if any(count == 0 for count in self._counts):
            return False
        behind = max(map(int.__add__, self._firsts, self._counts), default=0)
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
