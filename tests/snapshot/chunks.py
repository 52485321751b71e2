"""Chunks to store and to ask for: bytes whose digest is right; what is in them does not matter."""

from __future__ import annotations

import random

import msgspec
from blake3 import blake3

from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.objects import Objects


class Chunk(msgspec.Struct, frozen=True):
    """One chunk."""

    digest: bytes
    data: bytes

    @property
    def key(self) -> str:
        """Where a store has it."""
        return chunk_key(self.digest)

    @property
    def wanted(self) -> tuple[bytes, int]:
        """How a reader is asked for it."""
        return self.digest, len(self.data)


class Fill(msgspec.Struct, frozen=True):
    """A store and the chunks in it."""

    url: str
    chunks: list[Chunk]


def make(count: int, size: int = 20_000, seed: int = 1) -> list[Chunk]:
    """Chunks of about `size` bytes."""
    dice = random.Random(seed)
    datas = [dice.randbytes(size + dice.randrange(100)) for _ in range(count)]
    return [Chunk(blake3(data).digest(), data) for data in datas]


def filling(objects: Objects, count: int = 40) -> Fill:
    """A store with chunks."""
    chunks = make(count)
    for chunk in chunks:
        objects.put(chunk.key, chunk.data)
    return Fill(objects.url, chunks)
