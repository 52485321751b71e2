"""From a snapshot's name to pages: what the client does before a restore, and what its pager does.

The client opens the snapshot, makes the table of its pages and hands that over as a sealed memfd,
with a `StoreSpec` that says who has the chunks.  The pager maps the table and reads chunks; it
needs no manifest, and no name.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence

from userfault.kernel.errors import SourceError, UsageError
from userfault.linux.limits import growing
from userfault.snapshot.errors import StoreError
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.reading import ChunkReader, open_reader
from userfault.snapshot.serving.source import SnapshotSource
from userfault.snapshot.serving.table import Coarse, Table, build, sealed
from userfault.snapshot.serving.unpacked import Chunks
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.urls import folder_of, is_remote_url
from userfault.source.spec import Resolved, StoreSpec


def resolve(
    url: str,
    name: str,
    *,
    length: int | None = None,
    offset: int = 0,
    second: str | None = None,
    cache: str | None = None,
    cache_size: int | None = None,
) -> Resolved:
    """`length` bytes at `offset` (a multiple of 4096) of a snapshot, ready to be served.

    Raises NoSuchSnapshot, FormatError, StoreError for the snapshot, UsageError for a range that it
    does not have, SourceError where there is no memory for its table.
    """
    objects = open_objects(url)
    image = open_either(url, second, name)
    taken = _within(image, offset, length)
    table = build(image, offset // PAGE, -(-taken // PAGE))
    try:
        fd = sealed(table)
    except OSError as error:
        why = growing(error)
        raise SourceError(
            f"cannot put the table of snapshot {name!r} into memory",
            cause=why.cause,
            cure=why.cure or f"free {len(table)} bytes of memory, or raise `ulimit -n`",
        ) from None
    spec = StoreSpec.of(
        objects.url,
        name,
        length=taken,
        digest=image.digest,
        second=None if second is None else open_objects(second).url,
        cache=os.path.abspath(folder_of(cache)) if cache else cache,
        cache_size=cache_size,
    )
    return Resolved(spec, fd)


def take_up(spec: StoreSpec, fd: int, page_size: int) -> tuple[SnapshotSource, Table | Coarse]:
    """In the pager: the source of a snapshot, and its layout in pages of `page_size` bytes.

    Raises OSError where the descriptor cannot be mapped; it may be closed afterwards.
    """
    table = Table(memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ)))
    remote = any(is_remote_url(url or "") for url in (spec.url, spec.second))
    store: Chunks = _LateReader(spec) if remote else _reader(spec)
    source = SnapshotSource(table, store, length=spec.length, name=f"{spec.url}/{spec.name}")
    return source, table if page_size == PAGE else Coarse(table, page_size)


def _reader(spec: StoreSpec) -> ChunkReader:
    return open_reader(spec.url, second=spec.second, cache=spec.cache, cache_size=spec.cache_size)


class _LateReader:
    """A reader with a remote store, opened by the first thread that reads a chunk.

    To import the client library takes 0.1 s, in which the pager would serve no fault of anybody.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._reader: ChunkReader | None = None
        self._closed = False

    def chunk(
        self, digest: bytes, stored_length: int, *, urgent: bool, waited: float = 0.0
    ) -> bytes:
        """See `Chunks`."""
        return self._opened().chunk(digest, stored_length, urgent=urgent, waited=waited)

    def now(self, digest: bytes, stored_length: int) -> bytes | None:
        """See `Chunks`."""
        reader = self._reader
        return None if reader is None else reader.now(digest, stored_length)

    def ahead(self, wanted: Sequence[tuple[bytes, int]]) -> None:
        """See `Chunks`."""
        self._opened().ahead(wanted)

    def close(self) -> None:
        """See `Chunks`."""
        with self._lock:
            self._closed = True
            if self._reader is not None:
                self._reader.close()

    def _opened(self) -> ChunkReader:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._spec.url} is not read any more", cause="it was closed")
            if self._reader is None:
                self._reader = _reader(self._spec)
            return self._reader


def _within(image: Image, offset: int, length: int | None) -> int:
    """How many bytes are taken."""
    if offset < 0 or offset % PAGE:
        raise UsageError(
            f"offset={offset}",
            cause=f"offsets into a snapshot must be multiples of {PAGE}",
            cure="round it down and skip the first bytes",
        )
    left = image.length - offset
    taken = left if length is None else length
    if not 0 < taken <= left:
        raise UsageError(
            f"{taken} bytes at offset {offset} of snapshot {image.name!r}",
            cause=f"it has {image.length} bytes",
            cure="pass a range within it, of at least one byte",
        )
    return taken
