"""What a pack has stored so far: chunks, and the pieces of the index that promise them."""

from __future__ import annotations

from userfault.snapshot.format import index
from userfault.snapshot.format.manifest import ChunkTable
from userfault.snapshot.packing.writer import ChunkWriter
from userfault.snapshot.stores.objects import Objects


class Storing:
    """Chunks on their way into the store.

    `chunks`: the table, in which chunks from number `first` on are this pack's, the one with this
    `id`.  `pieces`: the keys of its pieces of the index.
    """

    def __init__(
        self, objects: Objects, chunks: ChunkTable, id: str, level: int, threads: int | None
    ) -> None:
        self._objects = objects
        self._id = id
        self.chunks = chunks
        self.first = self._piece_first = len(chunks)
        self.pieces: list[str] = []
        self.index_bytes = 0
        self._digests: list[bytearray] = []  # of the pages of each chunk, for the next piece
        self._writer = ChunkWriter(objects, chunks, level, threads)

    @property
    def count(self) -> int:
        """Chunks that this pack has made; they are the last ones of the table."""
        return len(self.chunks) - self.first

    @property
    def chunk_bytes(self) -> int:
        """What they take in the store."""
        return self._writer.stored_bytes

    def seal(self, number: int, raw: bytearray, digests: bytearray) -> None:
        """Chunk `number` of the table is full: its pages, and their digests."""
        self._writer.submit(number, raw)
        self._digests.append(digests)
        if self.chunks.slots - self.chunks.starts[self._piece_first] >= index.PIECE_PAGES:
            self.end_piece()

    def end_piece(self) -> None:
        """Write a piece of the index, when its chunks are durable: it must never promise more."""
        self._writer.drain()
        self._objects.flush()
        if not self._digests:
            return
        data = index.encode(
            index.IndexedChunk(
                self.chunks.digest(number), self.chunks.stored_length(number), bytes(digests)
            )
            for number, digests in enumerate(self._digests, self._piece_first)
        )
        key = index.piece_key(self._id, len(self.pieces))
        self.pieces.append(key)
        self._objects.put(key, data)
        self.index_bytes += len(data)
        self._piece_first = len(self.chunks)
        self._digests = []

    def close(self) -> None:
        """End the threads; what `end_piece` did not wait for is dropped."""
        self._writer.close()
