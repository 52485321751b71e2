"""What a pack builds on: its base, and the pages that the store has already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from userfault.snapshot.errors import FormatError, NoSuchObject
from userfault.snapshot.format import index
from userfault.snapshot.format.index import PAGE_DIGEST
from userfault.snapshot.format.manifest import MOST_SLOTS, ChunkTable
from userfault.snapshot.packing.dedupe import PageTable
from userfault.snapshot.packing.layering import BasePages
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.keys import INDEX, piece_writer
from userfault.snapshot.stores.objects import Listed, Objects

# What the index of the store may take of memory, where nobody says: pages of 11 GiB.
INDEX_MEMORY = 64 << 20

_CHUNK_ROW = 44  # bytes of memory for a chunk in the table
_PIECES_AT_ONCE = 8


class Ground:
    """The base, or None; the table of chunks; `known`, the pages in them by their digests.

    The table begins as that of the base, so that the slots of both are the same.  Raises as
    `open_image` does.
    """

    def __init__(self, objects: Objects, base: str | None, known: PageTable) -> None:
        self._objects = objects
        self.known = known
        self.base = None if base is None else open_image(objects, base)
        self.chunks = ChunkTable() if self.base is None else self.base.chunks.copy()
        self.in_base = None if self.base is None else BasePages(objects, self.base, known)

    def read_index(self, memory: int, renew: Callable[[], None]) -> None:
        """Learn the page contents of the store: the base's first, then the newest."""
        numbers = {self.chunks.digest(n): n for n in reversed(range(len(self.chunks)))}
        for data in self._pieces(memory, renew):
            with contextlib.suppress(FormatError):  # without it the pack shares less
                for indexed in index.decode(data):
                    rows = _CHUNK_ROW * (len(self.chunks) - len(numbers))
                    if self.known.memory + rows >= memory or rows >= memory // 4:
                        return
                    self._learn(indexed, numbers)

    def _pieces(self, memory: int, renew: Callable[[], None]) -> Iterator[bytes]:
        first = {layer.manifest.writer for layer in self.base.layers} if self.base else set()

        def rank(piece: Listed) -> tuple[bool, float]:
            return piece_writer(piece.key) not in first, -piece.modified

        pieces = sorted((p for p in self._objects.list(INDEX) if p.size < memory), key=rank)
        at_once = _PIECES_AT_ONCE if memory >= INDEX_MEMORY else 1
        with ThreadPoolExecutor(at_once) as pool:
            for at in range(0, len(pieces), at_once):
                renew()
                yield from pool.map(self._piece, pieces[at : at + at_once])

    def _piece(self, piece: Listed) -> bytes:
        try:
            return self._objects.get(piece.key, most=index.MOST_STORED)
        except (FormatError, NoSuchObject):
            return b""

    def _learn(self, indexed: index.IndexedChunk, numbers: dict[bytes, int]) -> None:
        count = len(indexed.pages) // PAGE_DIGEST
        number = numbers.get(indexed.digest, -1)
        if number < 0:
            if self.chunks.slots + count > MOST_SLOTS // 2:
                return
            number = self.chunks.append(indexed.digest, indexed.stored_length, count)
        elif self.chunks.pages(number) != count:
            return
        elif self.in_base:
            self.in_base.knows(number)
        slot = self.chunks.starts[number]
        for at in range(0, len(indexed.pages), PAGE_DIGEST):
            self.known.find_or_add(indexed.pages[at : at + PAGE_DIGEST], slot)
            slot += 1
