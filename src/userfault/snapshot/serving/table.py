"""The table by which an image is served: one read-only buffer, made once, searched where it lies.

Whoever opens a snapshot makes it, in a sealed memfd, and the pager's processes map that: a process
that goes on for one that was killed has the very same image without asking the store, also where
the name stands for another snapshot by then.

Stretches of pages whose bytes lie in one chunk, one after the other, are listed in the order of
their pages; what lies between them is zeros.  A second list has them in the order in which they are
read best, by chunk.  Columns are of 32 bits, so an image is shorter than 16 TiB.
"""

from __future__ import annotations

import fcntl
import os
import struct
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from userfault.kernel.errors import UsageError
from userfault.snapshot.format.runs import WORD
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.stores.keys import DIGEST_BYTES

if TYPE_CHECKING:  # who makes a table has these; who is handed one, a pager, starts without
    from userfault.snapshot.format.manifest import ChunkTable
    from userfault.snapshot.serving.image import Image

_HEADER = struct.Struct("=QQQQ")  # pages, stretches, chunks, words
_WORDS = 0xFFFFFFFF  # in place of a chunk: the pages are one word over and over
_MOST = (1 << 32) - 1

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Table:
    """Pages of an image, and where their bytes are.  `buffer`: what `build` made.

    It is the layout of memory whose pages are of 4 KiB (see `pager.core.layout`).
    """

    def __init__(self, buffer: bytes | memoryview) -> None:
        view = memoryview(buffer)
        self.pages, stretches, chunks, words = _HEADER.unpack_from(view)
        columns = _Columns(view, _HEADER.size)
        self._words = columns.take("Q", words)
        self._starts = columns.take("I", stretches)
        self._counts = columns.take("I", stretches)
        self._chunks = columns.take("I", stretches)
        self._slots = columns.take("I", stretches)
        self._order = columns.take("I", stretches)
        self._first_turns = columns.take("I", chunks + 1)
        self._stored = columns.take("I", chunks)
        self._raw_pages = columns.take("I", chunks)
        self._digests = columns.take("B", chunks * DIGEST_BYTES)
        self.chunks = chunks
        self.turns = stretches
        self.zero_turns = stretches + 1

    def at(self, page: int) -> tuple[int, int, bool]:
        """The longest stretch [low, high) around `page` that is filled alike; whether by zeros."""
        found = bisect_right(self._starts, page) - 1
        low = 0
        if found >= 0:
            start = self._starts[found]
            low = start + self._counts[found]
            if page < low:
                return start, low, False
        found += 1
        return low, self._starts[found] if found < self.turns else self.pages, True

    def turn(self, number: int) -> tuple[int, int]:
        """First page and count of the stretch of bytes whose turn is `number`."""
        stretch = self._order[number]
        return self._starts[stretch], self._counts[stretch]

    def stretch(self, number: int) -> tuple[int, int]:
        """First page and count of a stretch of bytes, by its place in the image."""
        return self._starts[number], self._counts[number]

    def zero_turn(self, number: int) -> tuple[int, int]:
        """First page and count of the zeros before stretch `number`; there may be none."""
        low = self._starts[number - 1] + self._counts[number - 1] if number else 0
        high = self._starts[number] if number < self.turns else self.pages
        return low, high - low

    def company(self, page: int) -> tuple[int, int]:
        """The turns [first, last) of the stretches that come from the same chunk as `page`."""
        found = bisect_right(self._starts, page) - 1
        if found < 0 or page >= self._starts[found] + self._counts[found]:
            return 0, 0
        return self.turns_of(self._chunks[found])

    def turns_of(self, chunk: int) -> tuple[int, int]:
        """The turns [first, last) of the stretches of a chunk."""
        if chunk == _WORDS:
            return 0, 0
        return self._first_turns[chunk], self._first_turns[chunk + 1]

    def piece(self, page: int, count: int) -> tuple[int, int, int] | None:
        """(chunk, slot, word) of `count` pages from `page` on, as in `pieces`; None where they are
        not of one stretch of bytes."""
        at = bisect_right(self._starts, page) - 1
        if at < 0:
            return None
        skip = page - self._starts[at]
        if skip + count > self._counts[at]:
            return None
        chunk, slot = self._chunks[at], self._slots[at]
        return (-1, 0, self._words[slot]) if chunk == _WORDS else (chunk, slot + skip, 0)

    def pieces(self, page: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """What `count` pages from `page` on are, as (count, chunk, slot, word) in their order.

        `chunk`: -1 for zeros and words.  A word of zeros is zeros.
        """
        end = min(page + count, self.pages)
        at = max(bisect_right(self._starts, page) - 1, 0)
        while page < end:
            start = self._starts[at] if at < self.turns else end
            if page < start:  # between two stretches
                size = min(start, end) - page
                yield size, -1, 0, 0
            else:
                size = min(start + self._counts[at], end) - page
                if size > 0:
                    yield self._piece(at, page - start, size)
                at += 1
            page += max(size, 0)

    def _piece(self, stretch: int, skip: int, size: int) -> tuple[int, int, int, int]:
        chunk, slot = self._chunks[stretch], self._slots[stretch]
        if chunk == _WORDS:
            return size, -1, 0, self._words[slot]
        return size, chunk, slot + skip, 0

    def digest(self, chunk: int) -> bytes:
        """Of a chunk's stored bytes."""
        return bytes(self._digests[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES])

    def stored_length(self, chunk: int) -> int:
        """Bytes of a chunk in the store."""
        return self._stored[chunk]

    def raw_length(self, chunk: int) -> int:
        """Bytes that a chunk holds."""
        return self._raw_pages[chunk] * PAGE


class _Columns:
    """Takes columns off a buffer, one after the other."""

    def __init__(self, view: memoryview, start: int) -> None:
        self._view = view
        self._at = start

    def take(self, typecode: Literal["B", "I", "Q"], count: int) -> memoryview[int]:
        size = count * struct.calcsize(typecode)
        taken = self._view[self._at : self._at + size]
        self._at += size
        return taken.cast(typecode)


def build(image: Image, page: int, count: int) -> bytes:
    """The table of `count` pages of an image from `page` on, for `Table`.

    Raises UsageError for an image that is too long to be served.
    """
    if count > _MOST or len(image.chunks) > _MOST:
        raise UsageError(
            f"an image of {count} pages",
            cause=f"memory of more than {_MOST} pages is not served",
            cure="take a part of it: offset= and length=",
        )
    stretches = _Stretches(image.chunks)
    stretches.take(image.runs, page, page + count)
    return stretches.table(count)


class _Stretches:
    """The columns of a table as it is made."""

    def __init__(self, chunks: ChunkTable) -> None:
        self._table = chunks
        self._starts: list[int] = []
        self._counts: list[int] = []
        self._chunks: list[int] = []
        self._slots: list[int] = []
        self._words = array("Q")
        self._bounds = chunks.starts.tolist()  # a list's numbers are made once
        held = bytes(chunks.digests)
        self._digests = [held[at : at + DIGEST_BYTES] for at in range(0, len(held), DIGEST_BYTES)]
        self._first = _first_ones(self._digests)

    def take(self, runs: Iterable[tuple[int, int, int]], page: int, last: int) -> None:
        """The runs of an image between two pages; those of chunks are cut at the ends of these.

        One turn of a loop a run and a chunk, with no calls but those that append: all of an image
        passes here before its first page is served.
        """
        bounds, first, words = self._bounds, self._first, self._words
        starts, counts = self._starts.append, self._counts.append
        chunks, slots = self._chunks.append, self._slots.append
        chunk = low = high = end = 0
        for count, kind, value in runs:
            begin, end = end, end + count
            # (What is neither a word nor chunks comes before both, and is zeros.)
            if kind < WORD or begin >= last or end <= page or (kind == WORD and not value):
                continue
            cut = page - begin if begin < page else 0
            length = (end if end < last else last) - begin - cut
            at = begin + cut - page
            if kind == WORD:
                starts(at)
                counts(length)
                chunks(_WORDS)
                slots(len(words))
                words.append(value)
                continue
            slot = value + cut
            stop = slot + length
            if not low <= slot < high:
                chunk = bisect_right(bounds, slot) - 1
                low, high = bounds[chunk], bounds[chunk + 1]
            while stop > high:
                starts(at)
                counts(high - slot)
                chunks(first[chunk])
                slots(slot - low)
                at += high - slot
                chunk += 1
                slot = low = high
                high = bounds[chunk + 1]
            starts(at)
            counts(stop - slot)
            chunks(first[chunk])
            slots(slot - low)

    def table(self, pages: int) -> bytes:
        """What `Table` takes."""
        # Chunks are read in the order of the store: a pack puts first what is needed first.
        used = sorted(set(self._chunks) - {_WORDS})
        ranks = {chunk: rank for rank, chunk in enumerate(used)} | {_WORDS: _WORDS}
        chunks = array("I", map(ranks.__getitem__, self._chunks))
        ranked = chunks.tolist()
        order = sorted(range(len(ranked)), key=ranked.__getitem__)  # stable: by page within one
        turns = Counter(ranked)
        table, bounds = self._table, self._bounds
        columns = (
            self._words,
            array("I", self._starts),
            array("I", self._counts),
            chunks,
            array("I", self._slots),
            array("I", order),
            array("I", accumulate((turns[chunk] for chunk in range(len(used))), initial=0)),
            array("I", map(table.stored.__getitem__, used)),
            array("I", [bounds[chunk + 1] - bounds[chunk] for chunk in used]),
        )
        header = _HEADER.pack(pages, len(chunks), len(used), len(self._words))
        digests = b"".join(map(self._digests.__getitem__, used))
        return b"".join((header, *(column.tobytes() for column in columns), digests))


def _first_ones(digests: list[bytes]) -> Sequence[int]:
    """Of each chunk, the first one with its digest: layers may list a chunk more than once."""
    by_digest: dict[bytes, int] = {}
    first = list(map(by_digest.setdefault, digests, range(len(digests))))
    return range(len(first)) if len(by_digest) == len(first) else first


def sealed(data: bytes) -> int:
    """A memfd with these bytes that nobody can change; the caller closes it.  Raises OSError."""
    fd = os.memfd_create("userfault-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(fd, memoryview(data)[written:], written)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class Coarse:
    """The layout of memory with huge pages: a page is zeros where all of the table's are."""

    def __init__(self, table: Table, page_size: int) -> None:
        ratio = page_size // PAGE
        self._pages = -(-table.pages // ratio)
        self._lows: list[int] = []
        self._highs: list[int] = []
        for number in range(table.turns):
            start, count = table.stretch(number)
            low, high = start // ratio, -(-(start + count) // ratio)
            if self._highs and low <= self._highs[-1]:
                self._highs[-1] = max(high, self._highs[-1])
            else:
                self._lows.append(low)
                self._highs.append(high)
        self.turns = len(self._lows)
        self.zero_turns = self.turns + 1

    def at(self, page: int) -> tuple[int, int, bool]:
        """See `Table.at`."""
        found = bisect_right(self._lows, page) - 1
        low = 0
        if found >= 0:
            low = self._highs[found]
            if page < low:
                return self._lows[found], low, False
        found += 1
        return low, self._lows[found] if found < self.turns else self._pages, True

    def turn(self, number: int) -> tuple[int, int]:
        """See `Table.turn`."""
        return self._lows[number], self._highs[number] - self._lows[number]

    def zero_turn(self, number: int) -> tuple[int, int]:
        """See `Table.zero_turn`."""
        low = self._highs[number - 1] if number else 0
        high = self._lows[number] if number < self.turns else self._pages
        return low, high - low

    def company(self, page: int) -> tuple[int, int]:
        """A huge page is of many chunks: none has company."""
        del page
        return 0, 0
