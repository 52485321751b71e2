"""Verifying a store: every manifest, every chunk that one refers to, every piece of the index.

Damage is told, not raised: one bad chunk must not hide the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.snapshot.errors import NoSuchObject, told
from userfault.snapshot.format import index
from userfault.snapshot.format.manifest import ChunkTable
from userfault.snapshot.packing.layering import read_chunk
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.layers import Layer, read_layer, snapshot_names
from userfault.snapshot.stores.keys import INDEX, piece_writer
from userfault.snapshot.stores.objects import Objects

_AT_ONCE = 8
_BATCH = 256

# (chunks done, chunks in all)
Progress = Callable[[int, int], None]


class Damage(msgspec.Struct, frozen=True):
    """One thing that is wrong.  `snapshots` have pages in it; none do in a piece of the index."""

    what: str
    problem: str
    cure: str
    snapshots: list[str]


class Verified(msgspec.Struct, frozen=True):
    """What was looked at, and what is wrong with it."""

    snapshots: int
    chunks: int
    stored_bytes: int
    index_pieces: int
    damage: list[Damage]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage


def verify(
    objects: Objects, name: str | None = None, *, progress: Progress | None = None
) -> Verified:
    """Read and check the snapshot `name` with all that it lies on, or the whole store.

    Each chunk is read once, its digest compared, and decompressed.  Raises StoreError where the
    store cannot be listed, NoSuchSnapshot where there is no `name`; the rest is told as damage.
    """
    damage: list[Damage] = []
    names = snapshot_names(objects) if name is None else [read_layer(objects, name).name]
    layers: dict[bytes, Layer] = {}
    users: dict[bytes, list[str]] = {}
    for one in names:
        for layer in _layers(objects, one, damage):
            layers[layer.digest] = layer
            users.setdefault(layer.digest, []).append(one)
    chunks: dict[_Chunk, list[bytes]] = {}
    for digest, layer in layers.items():
        for chunk in _chunks_of(layer):
            chunks.setdefault(chunk, []).append(digest)
    stored = 0
    for chunk, error in _checked(objects, list(chunks), progress):
        if error is None:
            stored += chunk.stored_length
            continue
        hurt = sorted({one for digest in chunks[chunk] for one in users[digest]})
        damage.append(_damage(f"chunk {chunk.digest.hex()}", error, hurt))
    pieces = _check_index(objects, damage) if name is None else 0
    return Verified(len(names), len(chunks), stored, pieces, damage)


class _Chunk(NamedTuple):
    """A chunk, as a manifest tells it."""

    digest: bytes
    stored_length: int
    pages: int


def _chunks_of(layer: Layer) -> Iterator[_Chunk]:
    table = layer.manifest.chunks
    for number in range(len(table)):
        yield _Chunk(table.digest(number), table.stored_length(number), table.pages(number))


def _layers(objects: Objects, name: str, damage: list[Damage]) -> Sequence[Layer]:
    """A snapshot and what it lies on; it alone where its bases cannot be had."""
    try:
        return open_image(objects, name).layers
    except UserfaultError as error:
        damage.append(_damage(f"snapshot {name}", error, [name]))
    with contextlib.suppress(UserfaultError):
        return [read_layer(objects, name)]
    return []


def _checked(
    objects: Objects, chunks: list[_Chunk], progress: Progress | None
) -> Iterator[tuple[_Chunk, UserfaultError | None]]:
    """Each chunk, and what is wrong with it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for at in range(0, len(chunks), _BATCH):
            batch = chunks[at : at + _BATCH]
            yield from zip(
                batch, pool.map(lambda chunk: _check(objects, chunk), batch), strict=True
            )
            if progress:
                progress(at + len(batch), len(chunks))


def _check(objects: Objects, chunk: _Chunk) -> UserfaultError | None:
    table = ChunkTable()
    table.append(*chunk)
    try:
        read_chunk(objects, table, 0)
    except UserfaultError as error:
        return error
    return None


def _check_index(objects: Objects, damage: list[Damage]) -> int:
    """A piece that is damaged costs sharing only; the number of pieces."""
    pieces = 0
    for listed in objects.list(INDEX):
        if piece_writer(listed.key) is None:  # somebody else's
            continue
        pieces += 1
        try:
            index.decode(objects.get(listed.key, most=index.MOST_STORED), listed.key)
        except NoSuchObject:
            continue  # removed while we looked
        except UserfaultError as error:
            cure = "`userfault gc` removes it; later packs share less"
            damage.append(Damage(listed.key, told(error), cure, []))
    return pieces


def _damage(what: str, error: UserfaultError, snapshots: list[str]) -> Damage:
    return Damage(what, told(error), error.cure, snapshots)
