"""What differs between two snapshots, page by page.

Pages are compared by their addresses where both snapshots tell them, else by their places in the
images.  Two pages of one chunk and slot are equal, and so are words and zeros; bytes are read only
where that decides nothing.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.image import Extent, Image
from userfault.snapshot.serving.unpacked import Chunks
from userfault.snapshot.upkeep.export import Progress, raw_chunk

_KEPT = 64 << 20  # bytes of unpacked chunks, for each side
_AHEAD = 64  # chunks that a remote store is asked for in advance


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

    `progress` is told pages whose bytes are compared.  Raises StoreError and FormatError.
    """
    sides = (_Side(old, old_reader), _Side(new, new_reader))
    return _joined(_decided(sides, list(_told(old, new)), progress))


def _decided(
    sides: tuple[_Side, _Side],
    told: list[Difference | _Undecided],
    progress: Progress | None,
) -> Iterator[Difference]:
    """Compare the bytes where they decide."""
    open_ones = [each for each in told if isinstance(each, _Undecided)]
    sides[0].will_read(each.old for each in open_ones)
    sides[1].will_read(each.new for each in open_ones)
    done, total = 0, sum(each.old.count for each in open_ones)
    for each in told:
        if isinstance(each, Difference):
            yield each
            continue
        pages = zip(sides[0].pages_of(each.old), sides[1].pages_of(each.new), strict=True)
        for number, (was, now) in enumerate(pages):
            if was != now:
                yield Difference(each.start + number * PAGE, 1, Change.CHANGED)
        done += each.old.count
        if progress is not None:
            progress(done, total)


def _joined(found: Iterator[Difference]) -> Iterator[Difference]:
    """Differences that continue each other as one."""
    last: Difference | None = None
    for each in found:
        if last is not None and _continues(last, each):
            last = msgspec.structs.replace(last, pages=last.pages + each.pages)
            continue
        if last is not None:
            yield last
        last = each
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


def _told(old: Image, new: Image) -> Iterator[Difference | _Undecided]:
    """What the tables tell of the differences, and where they decide nothing."""
    by_address = compared_by_address(old, new)
    for start, pages, was, now in _aligned(_laid_out(old, by_address), _laid_out(new, by_address)):
        if was is None:
            yield Difference(start, pages, Change.ADDED)
        elif now is None:
            yield Difference(start, pages, Change.REMOVED)
        else:
            at = start
            for a, b in _pairs(old, was, new, now, pages):
                yield from _compared(old, new, at, a, b)
                at += a.count * PAGE


def _pairs(
    old: Image, was: int, new: Image, now: int, pages: int
) -> Iterator[tuple[Extent, Extent]]:
    """Extents of one length in either image: `pages` pages from `was` and `now` on."""
    olds, news = old.extents(was, pages), new.extents(now, pages)
    one, two = next(olds, None), next(news, None)
    done = 0
    while one is not None and two is not None:
        count = min(one.page + one.count - was, two.page + two.count - now) - done
        yield _part(one, was + done, count), _part(two, now + done, count)
        done += count
        if one.page + one.count - was == done:
            one = next(olds, None)
        if two.page + two.count - now == done:
            two = next(news, None)


def _part(extent: Extent, page: int, count: int) -> Extent:
    slot = extent.slot + page - extent.page if extent.kind is Kind.CHUNK else 0
    return Extent(page, count, extent.kind, extent.chunk, slot, extent.word)


def _compared(
    old: Image, new: Image, start: int, a: Extent, b: Extent
) -> Iterator[Difference | _Undecided]:
    """Nothing where the pages are surely equal."""
    if a.kind is not Kind.CHUNK and b.kind is not Kind.CHUNK:
        if a.word != b.word:  # zeros and holes have the word 0
            yield Difference(start, a.count, Change.CHANGED)
        return
    same_place = a.kind is b.kind and a.slot == b.slot
    if not same_place or old.chunks.digest(a.chunk) != new.chunks.digest(b.chunk):
        yield _Undecided(start, a, b)


class _Undecided(NamedTuple):
    """Pages of which the bytes decide; the two extents have one length."""

    start: int
    old: Extent
    new: Extent


class _Side:
    """An image, and the chunks of it that were unpacked lately."""

    def __init__(self, image: Image, reader: Chunks) -> None:
        self._image = image
        self._reader = reader
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0
        self._plan: list[int] = []
        self._at = self._asked = 0  # places in the plan

    def will_read(self, extents: Iterable[Extent]) -> None:
        """Which extents are read, in that order: a store that answers late is asked in advance."""
        chunks = (extent.chunk for extent in extents if extent.kind is Kind.CHUNK)
        self._plan = [number for number, _ in itertools.groupby(chunks)]

    def pages_of(self, extent: Extent) -> Iterator[bytes]:
        """The bytes of each page of an extent."""
        if extent.kind is not Kind.CHUNK:
            return itertools.repeat(extent.word.to_bytes(8, "little") * (PAGE // 8), extent.count)
        raw = self._chunk(extent.chunk)
        slots = range(extent.slot, extent.slot + extent.count)
        return (raw[slot * PAGE : (slot + 1) * PAGE] for slot in slots)

    def _chunk(self, number: int) -> bytes:
        raw = self._kept.get(number)
        if raw is not None:
            self._kept.move_to_end(number)
            return raw
        self._ask_ahead(number)
        raw = self._kept[number] = raw_chunk(self._image, self._reader, number)
        self._size += len(raw)
        while self._size > _KEPT and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return raw

    def _ask_ahead(self, number: int) -> None:
        while self._at < len(self._plan) and self._plan[self._at] != number:
            self._at += 1
        if self._at >= self._asked - _AHEAD // 2:
            table = self._image.chunks
            wanted = self._plan[self._asked : self._at + _AHEAD]
            self._asked = max(self._asked, self._at + _AHEAD)
            self._reader.ahead([(table.digest(each), table.stored_length(each)) for each in wanted])
