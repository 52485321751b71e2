"""A store that tells of each put, and what is in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from userfault.snapshot.packing.sweep import referred
from userfault.snapshot.stores.keys import CHUNKS, LEASES, chunk_digest
from userfault.snapshot.stores.local import LocalObjects


def keys(store: LocalObjects, prefix: str = "") -> set[str]:
    return {listed.key for listed in store.list(prefix)}


def no_garbage(store: LocalObjects) -> bool:
    """Whether every chunk is referred to and nobody's lease is left."""
    marked = referred(store)
    return not keys(store, LEASES) and all(
        chunk_digest(key) in marked for key in keys(store, CHUNKS)
    )


class Watched(LocalObjects):
    """A folder that calls `before` with the key and the number of each put."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.puts = 0
        self.before: Callable[[str, int], None] = lambda _key, _number: None

    def put(self, key: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        self.puts += 1
        self.before(key, self.puts)
        super().put(key, data, new=new)
