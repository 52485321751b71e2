"""Telling pages apart: zero, one repeated word, known, or new and to be stored in a chunk.

The loop here sees every page of an image, so it is written for speed: a page of zeros costs 0.2 us,
one that is hashed 3 us, 2 of them BLAKE3's.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from userfault.snapshot.format.index import PAGE_DIGEST
from userfault.snapshot.format.manifest import ChunkTable
from userfault.snapshot.format.runs import CHUNK, WORD, WORD_BYTES, ZERO, Runs
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.dedupe import PageTable
from userfault.snapshot.packing.patches import Patches
from userfault.snapshot.stores.keys import DIGEST_BYTES

_ZEROS = bytes(PAGE)
_STRETCH = 32 * PAGE
_STRETCH_ZEROS = bytes(_STRETCH)
_WORDS = PAGE // WORD_BYTES

# (page of the image, its bytes) -> the slot in which the base has just these bytes, or -1
InBase = Callable[[int, memoryview], int]


class Classifier:
    """Pages in; runs, and chunks to store, out.

    `seal` is called with the number of each chunk that is full, its pages, and their digests; the
    table of chunks has a row for it by then, whose digest and stored length are still to be told.
    `in_base` is asked about pages that `table` does not know.
    """

    def __init__(
        self,
        table: PageTable,
        chunks: ChunkTable,
        chunk_size: int,
        seal: Callable[[int, bytearray, bytearray], None],
        in_base: InBase | None = None,
    ) -> None:
        self.runs = Runs()
        self._table = table
        self._chunks = chunks
        self._chunk_size = chunk_size
        self._sealed = seal
        self._in_base = in_base
        self._buffer = bytearray()
        self._digests = bytearray()
        self._early: dict[int, tuple[int, int]] = {}
        self._patches = Patches()

    def early(self, page: int, data: bytes) -> None:
        """Classify a page ahead of its turn, so that it is stored before the others."""
        if page in self._early:
            return
        runs, self.runs = self.runs, Runs()
        self._pages(page, data)
        self._early[page] = self.runs.kinds[0], self.runs.values[0]
        self.runs = runs

    def pages(self, first: int, data: bytes) -> None:
        """The next pages of the image, which begin at page `first`."""
        begin = 0
        if self._early:
            for at in range(0, len(data), PAGE):
                known = self._early.get(first + at // PAGE)
                if known is not None:
                    self._pages(first + begin // PAGE, data[begin:at])
                    self.runs.append(1, *known)
                    begin = at + PAGE
        self._pages(first + begin // PAGE, data[begin:])

    def again(self, first: int, data: bytes) -> None:
        """Pages that had their turn, and have other bytes now.  What they were before may stay in
        a chunk, where nothing refers to it."""
        runs, self.runs = self.runs, Runs()
        self._pages(first, data)
        patch, self.runs = self.runs, runs
        if not self._patches.append(first, patch):
            self.runs = self._patches.over(runs)
            self._patches = Patches()
            self._patches.append(first, patch)

    def finish(self) -> None:
        """No more pages: the last chunk may be short."""
        if self._buffer:
            self._seal()
        self.runs = self._patches.over(self.runs)

    def _pages(self, first: int, data: bytes) -> None:
        """Runs are joined here, in local names: `kind`, `value`, `count`, and what would go on."""
        append = self.runs.append
        view = memoryview(data)
        starts_with = data.startswith
        kind = value = count = expected = 0
        for stretch in range(0, len(data), _STRETCH):
            if starts_with(_STRETCH_ZEROS, stretch):
                append(count, kind, value)
                append(_STRETCH // PAGE, ZERO)
                count = 0
                continue
            for at in range(stretch, min(stretch + _STRETCH, len(data)), PAGE):
                if starts_with(_ZEROS, at):
                    its_kind = its_value = ZERO
                else:
                    word = data[at : at + WORD_BYTES]
                    if starts_with(word, at + WORD_BYTES) and starts_with(word * _WORDS, at):
                        its_kind, its_value = WORD, int.from_bytes(word, "little")
                    else:
                        its_kind = CHUNK
                        its_value = self._slot(first + at // PAGE, view[at : at + PAGE])
                if its_kind == kind and its_value == expected:
                    count += 1
                else:
                    append(count, kind, value)
                    kind = its_kind
                    value = expected = its_value
                    count = 1
                if kind == CHUNK:
                    expected += 1
        append(count, kind, value)

    def _slot(self, page: int, data: memoryview) -> int:
        """Where this page is, or from now on will be."""
        digest = blake3(data).digest(PAGE_DIGEST)
        new = self._chunks.slots + len(self._buffer) // PAGE
        if self._in_base is not None:
            found = self._table.find(digest)
            if found < 0:
                found = self._in_base(page, data)
            if found >= 0:
                self._table.find_or_add(digest, found)
                return found
        found = self._table.find_or_add(digest, new)
        if found >= 0:
            return found
        self._buffer += data
        self._digests += digest
        if len(self._buffer) >= self._chunk_size:
            self._seal()
        return new

    def _seal(self) -> None:
        pages = len(self._buffer) // PAGE
        number = self._chunks.append(bytes(DIGEST_BYTES), 0, pages)
        self._sealed(number, self._buffer, self._digests)
        self._buffer, self._digests = bytearray(), bytearray()
