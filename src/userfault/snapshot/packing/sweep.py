"""Removing chunks that no manifest refers to: marking, mending the index, deleting.

Only for holders of a sweeping lease that have seen no live sharer (see `leases`): then no pack is
under way, so that every reference there will ever be to a chunk is in a manifest or can only come
through the index.  The index is mended first, so that a sweep killed at any moment leaves no piece
that promises a chunk which is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import msgspec

from userfault.snapshot.errors import FormatError, NoSuchObject, StoreError
from userfault.snapshot.format import index
from userfault.snapshot.serving.layers import all_layers
from userfault.snapshot.stores.keys import (
    DIGEST_BYTES,
    INDEX,
    chunk_digest,
    piece_writer,
)
from userfault.snapshot.stores.objects import Listed, Objects

_BATCH = 1000  # keys a delete: what S3 takes in one request


class Swept(msgspec.Struct):
    """What a sweep removed, or would have."""

    chunks: int = 0
    chunk_bytes: int = 0
    index_pieces: int = 0


def referred(objects: Objects) -> set[bytes]:
    """The digests of all chunks that manifests refer to.  Raises FormatError, StoreError."""
    marked: set[bytes] = set()
    for layer in all_layers(objects):
        digests = bytes(layer.manifest.chunks.digests)
        marked.update(
            digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)
        )
    return marked


def sweep(
    objects: Objects,
    candidates: Iterable[Listed],
    *,
    there: Callable[[bytes], bool] = lambda _: True,
    dry_run: bool = False,
    renew: Callable[[], None] = lambda: None,
) -> Swept:
    """Remove those of `candidates`, chunks, that nothing refers to; the index forgets them.

    The index forgets also what is not `there`; that is asked after the last candidate was taken.
    Raises FormatError, and removes nothing, where a manifest cannot be read: what it refers to
    cannot be known.
    """
    marked = referred(objects)
    swept = Swept()
    victims: dict[bytes, str] = {}
    for listed in candidates:
        renew()
        digest = chunk_digest(listed.key)
        if digest is None or digest in marked:
            continue
        victims[digest] = listed.key
        swept.chunks += 1
        swept.chunk_bytes += listed.size
    if not dry_run:
        swept.index_pieces = _mend_index(
            objects, lambda digest: digest not in victims and there(digest)
        )
        keys = list(victims.values())
        for at in range(0, len(keys), _BATCH):
            renew()
            objects.delete(keys[at : at + _BATCH])
    return swept


def _mend_index(objects: Objects, there: Callable[[bytes], bool]) -> int:
    """Leave in the index only chunks that are `there`; how many pieces had others."""
    mended = 0
    for listed in list(objects.list(INDEX)):
        if piece_writer(listed.key) is None:  # somebody else's, who knows what
            continue
        try:
            chunks = list(index.decode(objects.get(listed.key, most=index.MOST_STORED)))
        except NoSuchObject:
            continue
        except FormatError:
            chunks = []  # of no use to anybody
        kept = [chunk for chunk in chunks if there(chunk.digest)]
        if chunks and len(kept) == len(chunks):
            continue
        mended += 1
        if not kept or not _replaced(objects, listed.key, kept):
            objects.delete([listed.key])
    if mended:
        with contextlib.suppress(StoreError):
            objects.flush()
    return mended


def _replaced(objects: Objects, key: str, kept: list[index.IndexedChunk]) -> bool:
    """Whether the piece could be written again: on a full disk it cannot, and is better lost."""
    try:
        objects.put(key, index.encode(kept))
    except StoreError:
        return False
    return True
