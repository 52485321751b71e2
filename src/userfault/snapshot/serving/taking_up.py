"""From the table of a snapshot to pages: what a pager does with what its client has handed over.

It maps the table and reads chunks.  It imports nothing that only the client needs (`handover.py`):
the first fault waits for what is imported here.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence

from userfault.snapshot.errors import StoreError
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.reading import ChunkReader, open_reader
from userfault.snapshot.serving.source import SnapshotSource
from userfault.snapshot.serving.table import Coarse, Table
from userfault.snapshot.serving.unpacked import Chunks
from userfault.snapshot.stores.urls import is_remote_url
from userfault.source.spec import StoreSpec


def take_up(spec: StoreSpec, fd: int, page_size: int) -> tuple[SnapshotSource, Table | Coarse]:
    """The source of a snapshot, and its layout in pages of `page_size` bytes.

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
