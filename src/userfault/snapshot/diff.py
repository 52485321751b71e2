"""What differs between two snapshots, page by page.

Pages are compared by their addresses where both snapshots tell them, else by their places in the
images.  Two pages of one chunk and slot are equal, and so are words and zeros; bytes are read only
where that decides nothing.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from userfault.snapshot.export import Progress, raw_chunk
from userfault.snapshot.image import Extent, Image
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.runs import Kind
from userfault.snapshot.unpacked import Chunks

_KEPT = 64 << 20  # bytes of unpacked chunks, for each side


class Change(enum.Enum):
    """What became of a page."""

    CHANGED = "changed"
    ADDED = "added"  # the old snapshot does not reach there
    REMOVED = "removed"  # the new one does not


class Difference(msgspec.Struct, frozen=True):
    """`pages` pages from `start` on: an address, or a position in the image; bytes."""

    start: int
    pages: int
    change: Change


class Stretch(NamedTuple):
    """Pages that lie one after the other, in an image and in the space that is compared.

    `start`: where in that space; `page`: in the image.
    """

    start: int
    page: int
    pages: int


def diff(
    old: Image,
    old_reader: Chunks,
    new: Image,
    new_reader: Chunks,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """The differences in ascending order, runs as long as can be.

    `progress` is told pages of the two images together.  Raises StoreError and FormatError.
    """
    by_address = compared_by_address(old, new)
    sides = (_Side(old, old_reader), _Side(new, new_reader))
    last: Difference | None = None
    done, total = 0, old.pages + new.pages
    for start, pages, was, now in _aligned(_laid_out(old, by_address), _laid_out(new, by_address)):
        for found in _compared(sides, start, pages, was, now):
            if last is not None and _continues(last, found):
                last = msgspec.structs.replace(last, pages=last.pages + found.pages)
                continue
            if last is not None:
                yield last
            last = found
        done += pages * ((was is not None) + (now is not None))
        if progress is not None:
            progress(done, total)
    if last is not None:
        yield last


def compared_by_address(old: Image, new: Image) -> bool:
    """Whether addresses are compared, not places in the images."""
    return bool(old.regions and new.regions)


def _continues(last: Difference, found: Difference) -> bool:
    return last.change is found.change and last.start + last.pages * PAGE == found.start


def _laid_out(image: Image, by_address: bool) -> Sequence[Stretch]:
    if not by_address:
        return [Stretch(0, 0, image.pages)] if image.pages else []
    found = [
        Stretch(region.start, region.offset // PAGE, region.length // PAGE)
        for region in image.regions
        if region.length
    ]
    return sorted(found)


def _aligned(
    old: Sequence[Stretch], new: Sequence[Stretch]
) -> Iterator[tuple[int, int, int | None, int | None]]:
    """Walk both: start, pages, and the page in either image, None where it does not reach."""
    edges = sorted(
        {edge for each in (*old, *new) for edge in (each.start, each.start + each.pages * PAGE)}
    )
    at = [0, 0]
    for start, end in itertools.pairwise(edges):
        pages: list[int | None] = []
        for side, stretches in enumerate((old, new)):
            while at[side] < len(stretches) and _end(stretches[at[side]]) <= start:
                at[side] += 1
            found = stretches[at[side]] if at[side] < len(stretches) else None
            inside = found is not None and found.start <= start
            pages.append(found.page + (start - found.start) // PAGE if found and inside else None)
        if pages != [None, None]:
            yield start, (end - start) // PAGE, pages[0], pages[1]


def _end(stretch: Stretch) -> int:
    return stretch.start + stretch.pages * PAGE


def _compared(
    sides: tuple[_Side, _Side], start: int, pages: int, was: int | None, now: int | None
) -> Iterator[Difference]:
    if was is None:
        yield Difference(start, pages, Change.ADDED)
    elif now is None:
        yield Difference(start, pages, Change.REMOVED)
    else:
        for first, count in _unequal(sides, was, now, pages):
            yield Difference(start + first * PAGE, count, Change.CHANGED)


def _unequal(
    sides: tuple[_Side, _Side], was: int, now: int, pages: int
) -> Iterator[tuple[int, int]]:
    """The runs that differ among `pages` pages from `was` and `now` on, counted from there."""
    old, new = sides
    olds, news = old.image.extents(was, pages), new.image.extents(now, pages)
    one, two = next(olds, None), next(news, None)
    done = 0
    while one is not None and two is not None:
        count = min(one.page + one.count - was, two.page + two.count - now) - done
        a, b = _part(one, was + done, count), _part(two, now + done, count)
        for first, run in _differing(sides, a, b):
            yield done + first, run
        done += count
        if one.page + one.count - was == done:
            one = next(olds, None)
        if two.page + two.count - now == done:
            two = next(news, None)


def _part(extent: Extent, page: int, count: int) -> Extent:
    slot = extent.slot + page - extent.page if extent.kind is Kind.CHUNK else 0
    return Extent(page, count, extent.kind, extent.chunk, slot, extent.word)


def _differing(sides: tuple[_Side, _Side], a: Extent, b: Extent) -> Iterator[tuple[int, int]]:
    """The runs of unequal pages in two extents of one length."""
    old, new = sides
    if a.kind is Kind.CHUNK and b.kind is Kind.CHUNK and a.slot == b.slot:
        if old.image.chunks.digest(a.chunk) == new.image.chunks.digest(b.chunk):
            return
    elif a.kind is not Kind.CHUNK and b.kind is not Kind.CHUNK:
        if a.word != b.word:  # zeros and holes have the word 0
            yield 0, a.count
        return
    ours, theirs = old.bytes_of(a), new.bytes_of(b)
    begun = None
    for page in range(a.count + 1):
        at = slice(page * PAGE, (page + 1) * PAGE)
        differs = page < a.count and ours[at] != theirs[at]
        if differs and begun is None:
            begun = page
        elif not differs and begun is not None:
            yield begun, page - begun
            begun = None


class _Side:
    """An image, and the chunks of it that were unpacked lately."""

    def __init__(self, image: Image, reader: Chunks) -> None:
        self.image = image
        self._reader = reader
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def bytes_of(self, extent: Extent) -> memoryview:
        """The pages of an extent, which lies in one chunk where the other side's does."""
        if extent.kind is not Kind.CHUNK:
            return memoryview(extent.word.to_bytes(8, "little") * (extent.count * PAGE // 8))
        raw = memoryview(self._chunk(extent.chunk))
        return raw[extent.slot * PAGE : (extent.slot + extent.count) * PAGE]

    def _chunk(self, number: int) -> bytes:
        raw = self._kept.get(number)
        if raw is not None:
            self._kept.move_to_end(number)
            return raw
        raw = self._kept[number] = raw_chunk(self.image, self._reader, number)
        self._size += len(raw)
        while self._size > _KEPT and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return raw
