"""Pages of a process that a userfaultfd is yet to fill: nobody knows what will be in them."""

from __future__ import annotations

from collections.abc import Iterable

from userfault.kernel.errors import SourceError
from userfault.snapshot.inputs.protocol import PAGE, Region

# (first byte, end) of the image
_Run = tuple[int, int]


def missing_pages(served: list[tuple[int, int]], region: Region, there: Iterable[_Run]) -> int:
    """How many pages of `region` are in a range of `served`, and not `there`."""
    count = 0
    shift = region.offset - region.start
    ends = region.offset + region.length
    at = region.offset
    for start, stop in (*there, (ends, ends)):
        for first, last in served:
            count += max(0, min(start, last + shift) - max(at, first + shift)) // PAGE
        at = max(at, stop)
    return count


def refuse(pid: int, missing: int) -> None:
    """Raise SourceError where pages are missing."""
    if missing:
        raise SourceError(
            f"the memory of process {pid} is not complete",
            cause=f"{missing} pages are missing, which a userfaultfd fills when they are touched:"
            " what will be in them is not to be had from the process",
            cure="wait until it is complete (in Python: memory.complete()), pack what it is filled"
            " from, or take these pages for zeros (--missing-are-holes)",
        )
