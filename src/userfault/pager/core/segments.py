"""Which address shows which page: the mapping's ranges through mremap and munmap.

At first a mapping is one segment.  REMAP moves parts of it, UNMAP cuts parts out; a page then has
another address, or none.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from userfault.pager.core.segment import Segment

_Sorted: TypeAlias = tuple[list[int], list[Segment]]

_FEW = 8  # are looked through, one after the other
_NONE = Segment(0, 0, 0)


class Segments:
    """The segments of one mapping.  Sizes are in bytes, pages in pages of `1 << shift` bytes."""

    __slots__ = ("_held", "_pages", "_starts", "shift")

    def __init__(self, start: int, pages: int, shift: int) -> None:
        self.shift = shift
        self._held = [Segment(start, start + (pages << shift), 0)]
        # The same sorted, with what it is sorted by: made when there are many.
        self._starts: _Sorted | None = None
        self._pages: _Sorted | None = None

    @classmethod
    def of(cls, held: Iterable[Segment], shift: int) -> Segments:
        """These segments (of a mapping that was served before)."""
        segments = cls(0, 0, shift)
        segments._hold(list(held))
        return segments

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def are_one(self, start: int, pages: int) -> bool:
        """All pages are shown, in order, from `start` on."""
        return self._held == [Segment(start, start + (pages << self.shift), 0)]

    def copy(self) -> Segments:
        """An independent copy (for the child of a fork)."""
        return Segments.of(self._held, self.shift)

    def page_of(self, address: int) -> int:
        """The page shown at `address`, or -1."""
        if len(self._held) > _FEW:
            starts, held = self._by_start()
            at = bisect.bisect_right(starts, address) - 1
            found = held[at] if at >= 0 else _NONE
            inside = found.start <= address < found.end
            return found.page + ((address - found.start) >> self.shift) if inside else -1
        for segment in self._held:
            if segment.start <= address < segment.end:
                return segment.page + ((address - segment.start) >> self.shift)
        return -1

    def address_of(self, page: int) -> int:
        """Where `page` is shown, or -1."""
        segment = self._with(page)
        return segment.start + ((page - segment.page) << self.shift) if segment.end else -1

    def reach(self, page: int) -> int:
        """How many pages from `page` on lie at one stretch of addresses (0: not mapped)."""
        segment = self._with(page)
        first = segment.page
        return ((segment.end - segment.start) >> self.shift) + first - page if segment.end else 0

    def _with(self, page: int) -> Segment:
        """The segment that shows it, or `_NONE`."""
        if len(self._held) > _FEW:
            pages, held = self._by_page()
            at = bisect.bisect_right(pages, page) - 1
            found = held[at : at + 1] if at >= 0 else []
        else:
            found = self._held
        for segment in found:
            if 0 <= page - segment.page < (segment.end - segment.start) >> self.shift:
                return segment
        return _NONE

    def _by_start(self) -> _Sorted:
        """In the order of addresses."""
        if self._starts is None:
            held = sorted(self._held, key=lambda segment: segment.start)
            self._starts = [segment.start for segment in held], held
        return self._starts

    def _by_page(self) -> _Sorted:
        """In the order of pages."""
        if self._pages is None:
            held = sorted(self._held, key=lambda segment: segment.page)
            self._pages = [segment.page for segment in held], held
        return self._pages

    def _hold(self, held: list[Segment]) -> None:
        """From now on these."""
        self._held = held
        self._starts = self._pages = None

    def pages_in(self, start: int, end: int) -> list[tuple[int, int]]:
        """The runs (first page, count) that addresses [start, end) show."""
        found = []
        for segment in self._held:
            low, high = max(start, segment.start), min(end, segment.end)
            if low < high:
                page = segment.page + ((low - segment.start) >> self.shift)
                found.append((page, (high - low) >> self.shift))
        return found

    def whole_in(self, start: int, end: int) -> list[tuple[int, int]]:
        """The runs of pages that addresses [start, end) cover: whole pages are dropped.

        Of a huge page that is covered in part the kernel keeps what is there, though its event
        names all that was asked for.
        """
        part = (1 << self.shift) - 1
        return self.pages_in((start + part) & ~part, end & ~part)

    def addresses_of(self, page: int, count: int) -> list[tuple[int, int]]:
        """The ranges (start, end) that show pages of [page, page + count)."""
        found = []
        for segment in self._held:
            base = segment.start - (segment.page << self.shift)
            low = max(base + (page << self.shift), segment.start)
            high = min(base + ((page + count) << self.shift), segment.end)
            if low < high:
                found.append((low, high))
        return found

    def take(self, other: Segments, start: int, end: int) -> None:
        """Note what `other` shows at addresses [start, end)."""
        for segment in other:
            low, high = max(start, segment.start), min(end, segment.end)
            if low < high:
                page = segment.page + ((low - segment.start) >> self.shift)
                self._hold([*self._held, Segment(low, high, page)])

    def hidden(self, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """What of these runs (first page, count) no address shows."""
        pages, shown = self._by_page()
        left = []
        for first, count in runs:
            page, end = first, first + count
            at = max(bisect.bisect_right(pages, page) - 1, 0)
            while page < end and at < len(shown) and shown[at].page < end:
                segment = shown[at]
                if segment.page > page:
                    left.append((page, segment.page - page))
                behind = segment.page + ((segment.end - segment.start) >> self.shift)
                page = max(page, behind)
                at += 1
            if page < end:
                left.append((page, end - page))
        return left

    def unmap(self, start: int, end: int) -> list[tuple[int, int]]:
        """Cut addresses [start, end) out; the runs of pages that were shown there."""
        gone = self.pages_in(start, end)
        held = []
        for segment in self._held:
            if segment.start < start:
                held.append(Segment(segment.start, min(segment.end, start), segment.page))
            if segment.end > end:
                low = max(segment.start, end)
                page = segment.page + ((low - segment.start) >> self.shift)
                held.append(Segment(low, segment.end, page))
            # a segment wholly inside [start, end) leaves nothing
        self._hold([segment for segment in held if segment.start < segment.end])
        return gone

    def remap(self, old: int, new: int, length: int) -> None:
        """Addresses [old, old + length) are now at `new`."""
        moved = []
        for segment in self._held:
            low, high = max(old, segment.start), min(old + length, segment.end)
            if low < high:
                page = segment.page + ((low - segment.start) >> self.shift)
                moved.append(Segment(low - old + new, high - old + new, page))
        self.unmap(old, old + length)
        # What was mapped at the new place before has gone without an event of its own.
        self.unmap(new, new + length)
        self._hold(sorted(self._held + moved, key=lambda segment: segment.start))
