"""Packing memory into a store: classify pages, store what is new, write down what is where.

Zeros and pages of one repeated word take no space; a page whose content the store or the image
has already is referred to; the others fill chunks, in the order of addresses or of the working set
given.  Chunks are stored first, then the index, then the manifest: until that one is there, there
is no snapshot, and nothing of a pack that failed is anybody's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
from blake3 import blake3

from userfault.kernel.errors import UsageError
from userfault.snapshot import manifest
from userfault.snapshot.chunk import MOST_RAW
from userfault.snapshot.dedupe import DIGEST, PageTable
from userfault.snapshot.errors import AlreadyThere, SnapshotInUse
from userfault.snapshot.inputs.protocol import PAGE, Holds, PageInput
from userfault.snapshot.keys import DIGEST_BYTES, snapshot_key
from userfault.snapshot.manifest import ChunkTable, Manifest
from userfault.snapshot.objects import Objects
from userfault.snapshot.runs import CHUNK, HOLE, WORD, WORD_BYTES, ZERO, Runs
from userfault.snapshot.writer import ChunkWriter

CHUNK_SIZE = 128 << 10
LEVEL = 1

Progress = Callable[[int, int], None]

_BLOCK = 256  # pages read at once
_ZEROS = bytes(PAGE)
_STRETCH = 32 * PAGE
_STRETCH_ZEROS = bytes(_STRETCH)
_WORDS = PAGE // WORD_BYTES


class Packed(msgspec.Struct, frozen=True):
    """What a pack made.  Lengths in bytes; the others count pages, which add up to `pages`.

    `stored` were new to the store; `duplicate` were in the image before, `shared` in the store;
    `parent` are as in the base.
    """

    name: str
    digest: str
    length: int
    pages: int
    zero: int
    hole: int
    word: int
    duplicate: int
    shared: int
    parent: int
    stored: int
    chunks: int
    chunk_bytes: int
    manifest_bytes: int


def pack(
    objects: Objects,
    name: str,
    pages: PageInput,
    *,
    level: int = LEVEL,
    chunk_size: int = CHUNK_SIZE,
    order: Sequence[int] | None = None,
    dedupe_memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Store `pages` as the snapshot `name`."""
    key = snapshot_key(name)
    if chunk_size % PAGE or not 0 < chunk_size <= MOST_RAW:
        raise UsageError(
            f"chunks of {chunk_size} bytes", cure=f"a multiple of {PAGE} up to {MOST_RAW}"
        )
    total = manifest.pages_of(pages.length)
    table = PageTable(total, dedupe_memory)
    chunks = ChunkTable()
    writer = ChunkWriter(objects, chunks, level, threads)
    try:
        packer = _Packer(objects, table, chunks, writer, chunk_size)
        for first in order or ():
            packer.early(first, bytes(pages.read(first, 1)))
        done = 0
        for run in pages.runs():
            if run.holds is not Holds.DATA:
                packer.runs.append(run.pages, ZERO if run.holds is Holds.ZERO else HOLE)
            else:
                for page in range(run.first, run.first + run.pages, _BLOCK):
                    count = min(_BLOCK, run.first + run.pages - page)
                    packer.block(page, bytes(pages.read(page, count)))
                    if progress:
                        progress(page + count, total)
            done = run.first + run.pages
        if progress:
            progress(done, total)
        packer.finish()
        about = pages.finish()
    finally:
        writer.close()
    objects.flush()
    data = manifest.encode(
        Manifest(
            length=pages.length,
            kind=pages.kind,
            created=int(time.time()),
            runs=packer.runs,
            chunks=chunks,
            regions=tuple(pages.regions),
            about=dict(about),
        )
    )
    try:
        objects.put(key, data, new=True)
    except AlreadyThere:
        raise SnapshotInUse(
            f"there is a snapshot {name!r} already", cure="choose another name"
        ) from None
    return Packed(
        name=name,
        digest=data[28:60].hex(),
        length=pages.length,
        pages=total,
        zero=0,
        hole=0,
        word=0,
        duplicate=0,
        shared=0,
        parent=0,
        stored=chunks.slots,
        chunks=len(chunks),
        chunk_bytes=writer.stored_bytes,
        manifest_bytes=len(data),
    )


class _Packer:
    """Pages in, runs and chunks out."""

    def __init__(
        self,
        objects: Objects,
        table: PageTable,
        chunks: ChunkTable,
        writer: ChunkWriter,
        chunk_size: int,
    ) -> None:
        self._objects = objects
        self._table = table
        self._chunks = chunks
        self._writer = writer
        self._chunk_size = chunk_size
        self._buffer = bytearray()
        self.runs = Runs()
        self._early: dict[int, tuple[int, int]] = {}

    def early(self, page: int, data: bytes) -> None:
        runs, self.runs = self.runs, Runs()
        self._pages(data)
        self._early[page] = (self.runs.kinds[0], self.runs.values[0])
        self.runs = runs

    def block(self, first: int, data: bytes) -> None:
        if not self._early:
            self._pages(data)
            return
        begin = 0
        for n in range(len(data) // PAGE):
            if first + n in self._early:
                self._pages(data[begin * PAGE : n * PAGE])
                self.runs.append(1, *self._early[first + n])
                begin = n + 1
        self._pages(data[begin * PAGE :])

    def _pages(self, data: bytes) -> None:
        append = self.runs.append
        view = memoryview(data)
        starts_with = data.startswith
        find_or_add = self._table.find_or_add
        buffer = self._buffer
        next_slot = self._chunks.slots + len(buffer) // PAGE
        kind, value, count, expected = ZERO, 0, 0, 0
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
                    head = data[at : at + WORD_BYTES]
                    if starts_with(head, at + WORD_BYTES) and starts_with(head * _WORDS, at):
                        its_kind, its_value = WORD, int.from_bytes(head, "little")
                    else:
                        page = view[at : at + PAGE]
                        digest = blake3(page).digest(DIGEST)
                        its_kind, its_value = CHUNK, find_or_add(digest, next_slot)
                        if its_value < 0:
                            its_value = next_slot
                            next_slot += 1
                            buffer += page
                            if len(buffer) == self._chunk_size:
                                self._seal()
                                buffer = self._buffer
                if its_kind == kind and its_value == expected:
                    count += 1
                else:
                    append(count, kind, value)
                    kind, value, count = its_kind, its_value, 1
                    expected = value
                expected += kind == CHUNK
        append(count, kind, value)

    def _seal(self) -> None:
        number = self._chunks.append(bytes(DIGEST_BYTES), 0, len(self._buffer) // PAGE)
        self._writer.submit(number, self._buffer)
        self._buffer = bytearray()

    def finish(self) -> None:
        if self._buffer:
            self._seal()
        self._writer.drain()
