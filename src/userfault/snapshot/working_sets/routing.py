"""From a set to the course of one restore: what is filled together, and in which order."""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from pyroaring import BitMap

from userfault.snapshot.format.working_set import WorkingSet
from userfault.snapshot.serving.table import Table
from userfault.snapshot.working_sets.course import Columns, Run, columns, put

# An ioctl of a course fills so much at most: a fault that comes meanwhile waits for no more.
# 64 KiB take 15 µs, and cost 5 % more in all than pieces of 256 KiB do (measured on 6.18).
PIECE_BYTES = 64 << 10
_GROUP_BYTES = 4 << 20
_GROUP_RUNS = 208  # the journal has room for as many fills of one action
# Pages of the set that are left to faults, so that it is seen how many of its pages are touched at
# all: with 64 the share is known to 5 % or so, and they cost half a millisecond.
_SAMPLE = 64
_SAMPLE_SHARE = 16  # of a small set one in so many


def build(
    held: WorkingSet, *, offset: int, pages: int, page_size: int, table: Table | None = None
) -> bytes | None:
    """The course of memory that shows `pages` pages of `page_size` bytes from `offset` of the
    image.

    `table`: of a snapshot that is served in pages of 4 KiB.  None: the set says nothing of it, or
    is in larger pages.
    """
    if held.page_size > page_size or offset % held.page_size:
        return None
    classes: list[BitMap] = []
    everything = BitMap()
    for each in held.classes:
        moved = _moved(each, held.page_size, offset, pages, page_size) - everything
        classes.append(moved)
        everything |= moved
    if not everything:
        return None
    left_out = min(_SAMPLE, len(everything) // _SAMPLE_SHARE)
    sample = BitMap(everything[rank] for rank in random.sample(range(len(everything)), left_out))
    classes = [each - sample for each in classes]
    piece = max(PIECE_BYTES // page_size, 1)
    most = max(_GROUP_BYTES // page_size, piece)
    grouped = _by_class(classes, sample) if table is None else _by_chunk(classes, table, sample)
    firsts, counts, ends = array("I"), array("I"), array("I")
    for runs in grouped:
        begun = len(firsts)
        firsts_of, counts_of = _cut(runs, piece)
        firsts += firsts_of
        counts += counts_of
        ends.extend([begun + end for end in _ends(counts_of, most)])
    return put((firsts, counts), ends, sample.to_array())


def _moved(held: BitMap, its_size: int, offset: int, pages: int, page_size: int) -> BitMap:
    """Pages of an image as those of memory that shows a part of it."""
    first = offset // its_size
    moved = held.shift(-first) if first else held
    ratio = page_size // its_size
    if ratio > 1:
        moved = BitMap(page // ratio for page in moved)
    return moved & BitMap(range(pages)) if moved and moved.max() >= pages else moved


def _runs(held: BitMap) -> Columns:
    """The runs of pages that follow upon each other."""
    # Whole columns: page by page out of the bitmaps would take five times as long.
    firsts = (held - held.shift(1)).to_array()
    lasts = (held - held.shift(-1)).to_array()
    counts = [last - first + 1 for first, last in zip(firsts, lasts, strict=True)]
    return firsts, array("I", counts)


# An ioctl costs what copying a page does (1 µs, measured on 6.18): so runs are put together over
# gaps of one page, but for pages of the sample.
def _by_class(classes: Sequence[BitMap], sample: BitMap) -> Iterator[Columns]:
    """A group a class: what comes from a file or a function is read where it is wanted."""
    taken, gaps = sample, BitMap()
    for each in classes:
        left = each - gaps
        taken = taken | each
        between = (left.shift(1) & left.shift(-1)) - taken
        taken, gaps = taken | between, gaps | between
        yield _runs(left | between)


def _by_chunk(classes: Sequence[BitMap], table: Table, sample: BitMap) -> Iterator[Columns]:
    """A group a chunk, with all that the set has of it; zeros and words by their class."""
    chunks: dict[int, list[tuple[int, int, int]]] = {}
    others: list[list[list[Run]]] = []  # of each class: zeros, words
    order: list[list[int]] = []  # of each class: the chunks that it is the first to need
    for each in classes:
        zeros: list[Run] = []
        words: list[Run] = []
        fresh: list[int] = []
        for first, count in zip(*_runs(each), strict=True):
            at = first
            for size, chunk, slot, word in table.pieces(first, count):
                if chunk >= 0:
                    if chunk not in chunks:
                        chunks[chunk] = []
                        fresh.append(chunk)
                    chunks[chunk].append((at, size, slot))
                else:
                    (words if word else zeros).append((at, size))
                at += size
        others.append([zeros, words])
        order.append(sorted(fresh))
    for (zeros, words), fresh in zip(others, order, strict=True):
        for chunk in fresh:
            yield columns(_joined(chunks[chunk], sample))
        yield columns(zeros)
        yield columns(words)


def _joined(pieces: list[tuple[int, int, int]], sample: BitMap) -> list[Run]:
    """Pieces (page, count, slot) of one chunk as runs, over gaps of pages that lie in it as
    well."""
    runs: list[Run] = []
    shift = None
    for page, count, slot in sorted(pieces):
        gap = page - sum(runs[-1]) if runs and page - slot == shift else 2
        if gap < 2 and page - gap not in sample:
            runs[-1] = (runs[-1][0], page + count - runs[-1][0])
        else:
            runs.append((page, count))
        shift = page - slot
    return runs


def _cut(runs: Columns, piece: int) -> Columns:
    """Runs in pieces."""
    firsts, counts = runs
    long = [at for at, count in enumerate(counts) if count > piece]
    if not long:
        return runs
    found_firsts, found_counts, done = array("I"), array("I"), 0
    for at in long:
        found_firsts += firsts[done:at]
        found_counts += counts[done:at]
        behind = firsts[at] + counts[at]
        starts = range(firsts[at], behind, piece)
        found_firsts.extend(starts)
        found_counts.extend([min(piece, behind - start) for start in starts])
        done = at + 1
    return found_firsts + firsts[done:], found_counts + counts[done:]


def _ends(counts: Sequence[int], most: int) -> Iterator[int]:
    """Where groups end that are not too large."""
    sums = [0, *accumulate(counts)]
    low, end = 0, len(counts)
    while low < end:
        high = bisect_right(sums, sums[low] + most, low, min(low + _GROUP_RUNS, end) + 1)
        low = high - 1
        yield low
