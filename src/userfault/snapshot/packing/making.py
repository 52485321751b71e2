"""From what a pack has stored to its manifest, which is checked as its readers would."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchObject, StoreError, told
from userfault.snapshot.format import manifest
from userfault.snapshot.format.manifest import Base, ChunkTable, Manifest
from userfault.snapshot.format.runs import Runs
from userfault.snapshot.inputs.protocol import PageInput
from userfault.snapshot.packing.ground import Ground
from userfault.snapshot.packing.layering import only_used, unchanged_to_parent, used_chunks
from userfault.snapshot.serving.image import Image, check_layers
from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.objects import Objects

_CHECKS_AT_ONCE = 16


def make(
    pages: PageInput, about: Mapping[str, str], runs: Runs, ground: Ground, first: int, writer: str
) -> tuple[Manifest, int]:
    """The manifest of what was read: with the chunks that it refers to, and no others.

    And how many of them others have stored: those before chunk `first` of the table.
    """
    base = None
    if ground.base is not None:
        runs = unchanged_to_parent(runs, ground.base.runs)
        base = Base(ground.base.name, ground.base.digest)
    used = used_chunks(runs, ground.chunks)
    shared = used.count(1, 0, first)
    runs, chunks = only_used(runs, ground.chunks, used)
    made = Manifest(
        length=pages.length,
        kind=pages.kind,
        created=int(time.time()),
        runs=runs,
        chunks=chunks,
        base=base,
        regions=tuple(pages.regions),
        about=about,
        writer=writer,
    )
    return made, shared


def encode(name: str, made: Manifest, base: Image | None) -> bytes:
    """The object of the manifest; what no reader takes is no pack.

    Raises FormatError; UsageError where nobody would open it for what it lies on.
    """
    data = manifest.encode(made)
    manifest.decode(data, f"the manifest of {name!r}")
    if base is None:
        return data
    try:
        check_layers(name, [made, *(layer.manifest for layer in base.layers)])
    except FormatError as error:
        raise UsageError(
            f"cannot pack {name!r} on {base.name!r}",
            cause=told(error),
            cure=f"`userfault squash {base.name} --to NAME`, and pack on that",
        ) from None
    return data


def check_shared(
    objects: Objects, chunks: ChunkTable, count: int, renew: Callable[[], None]
) -> None:
    """StoreError where one of the first `count` chunks, which the index promised, is not there."""

    def is_there(number: int) -> bool:
        renew()
        try:
            size = objects.size(chunk_key(chunks.digest(number)))
        except NoSuchObject:
            return False
        return size == chunks.stored_length(number)

    if not count:
        return
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        found = pool.map(is_there, range(count))
        gone = [chunks.digest(n).hex() for n, there in enumerate(found) if not there]
    if gone:
        raise StoreError(
            f"{len(gone)} chunks that the index of {objects.url} names are gone",
            cause=f"somebody removed them, {gone[0]} for one",
            cure="`userfault gc` mends the index, `userfault verify` says which snapshots "
            "have lost them; then pack again",
        )
