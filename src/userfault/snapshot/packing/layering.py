"""Layers while packing: what the base has, what did not change, and which chunks that leaves."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from itertools import accumulate

from userfault.snapshot.errors import FormatError, NoSuchObject
from userfault.snapshot.format import chunk
from userfault.snapshot.format.manifest import ChunkTable
from userfault.snapshot.format.runs import CHUNK, PARENT, WORD_BYTES, Runs
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.dedupe import PageTable
from userfault.snapshot.serving.image import Image, slices
from userfault.snapshot.stores.digests import verify
from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.objects import Objects

_CHUNKS_HELD = 8


class BasePages:
    """Finds pages of the base by their bytes, where the index does not know their digests.

    Reads the chunks of the base that it needs, so it is asked only about pages that nothing else
    knows.  Slots are those of the base's flat table.
    """

    def __init__(self, objects: Objects, image: Image, table: PageTable) -> None:
        self._objects = objects
        self._image = image
        self._table = table
        self._known = bytearray(len(image.chunks))
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def knows(self, number: int) -> None:
        """The index has the digests of this chunk: a page not found there is not in it."""
        self._known[number] = 1

    def slot(self, page: int, data: memoryview) -> int:
        """The slot in which the base has these bytes at this page, or -1.

        What is damaged or gone is not the same: the page is stored again.  Raises StoreError where
        the store cannot be read.
        """
        if page >= self._image.pages:
            return -1
        (extent,) = self._image.extents(page, 1)
        if extent.kind != CHUNK or (self._known[extent.chunk] and not self._table.forgets):
            return -1
        at = extent.slot * PAGE
        try:
            same = self._chunk(extent.chunk)[at : at + PAGE] == data
        except (FormatError, NoSuchObject):
            same = False
        if not same:
            return -1
        return self._image.chunks.starts[extent.chunk] + extent.slot

    def read(self, page: int) -> bytes:
        """A page of the base.  Raises StoreError, FormatError where its chunk cannot be read."""
        (extent,) = self._image.extents(page, 1)
        if extent.kind != CHUNK:
            return extent.word.to_bytes(WORD_BYTES, "little") * (PAGE // WORD_BYTES)
        at = extent.slot * PAGE
        return self._chunk(extent.chunk)[at : at + PAGE]

    def _chunk(self, number: int) -> bytes:
        held = self._held.get(number)
        if held is None:
            table = self._image.chunks
            held = self._held[number] = read_chunk(self._objects, table, number)
            if len(self._held) > _CHUNKS_HELD:
                self._held.popitem(last=False)
        return held


def read_chunk(objects: Objects, table: ChunkTable, number: int) -> bytes:
    """The pages of a chunk, straight from the store.  Raises StoreError, FormatError."""
    digest = table.digest(number)
    stored = objects.get(chunk_key(digest), most=table.stored_length(number))
    verify(digest, stored)
    return chunk.decode_exactly(digest, stored, table.raw_length(number))


def unchanged_to_parent(runs: Runs, base: Runs) -> Runs:
    """`runs` with those pages of kind PARENT that are as in the flat table of the base.

    Both tell slots of one table of chunks.
    """
    starts = array("Q", accumulate(base.counts, initial=0))
    layered = Runs()
    page = 0
    for count, kind, value in runs:
        inside = min(count, max(0, starts[-1] - page)) if kind != PARENT else 0
        done = 0
        for part, its_kind, its_value in slices(base, starts, page, inside):
            mine = value + done if kind == CHUNK else value
            if (its_kind, its_value) == (kind, mine):
                layered.append(part, PARENT)
            else:
                layered.append(part, kind, mine)
            done += part
        layered.append(count - done, kind, value + done if kind == CHUNK else value)
        page += count
    return layered


def used_chunks(runs: Runs, chunks: ChunkTable) -> bytearray:
    """Of each chunk of the table a byte: 1 where `runs` refer to it."""
    used = bytearray(len(chunks))
    for count, kind, value in runs:
        if kind == CHUNK:
            first, last = chunks.find(value)[0], chunks.find(value + count - 1)[0]
            used[first : last + 1] = b"\1" * (last + 1 - first)
    return used


def only_used(runs: Runs, chunks: ChunkTable, used: bytearray) -> tuple[Runs, ChunkTable]:
    """The table of those chunks that `runs` refer to, and the runs with its slots.

    `used`: what `used_chunks` says of them.  Pages that follow each other in slots still do: every
    chunk between them is used too.
    """
    if all(used):
        return runs, chunks
    table = ChunkTable()
    shift = array("Q", bytes(8 * len(chunks)))
    for number in range(len(chunks)):
        if used[number]:
            shift[number] = chunks.starts[number] - table.slots
            digest, stored = chunks.digest(number), chunks.stored_length(number)
            table.append(digest, stored, chunks.pages(number))
    moved = Runs()
    for count, kind, value in runs:
        moved.append(count, kind, value - shift[chunks.find(value)[0]] if kind == CHUNK else value)
    return moved, table
