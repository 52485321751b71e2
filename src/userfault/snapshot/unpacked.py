"""Chunks of one image, unpacked: read, verified, decompressed, and kept for a while.

Reading and decompressing release the GIL, so they go on beside whoever fills memory.  A chunk that
two threads want at once is unpacked once.  Threads of its own unpack chunks in advance, in the
order of the table, a little ahead of whoever reads in that order.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from userfault.snapshot import chunk as chunks
from userfault.snapshot.counts import Counts
from userfault.snapshot.errors import FormatError
from userfault.snapshot.table import Table

KEPT_BYTES = 32 << 20  # of unpacked chunks, for each image that is served
_AHEAD_BYTES = 4 << 20  # unpacked in advance
_READ_AHEAD = 64  # chunks asked of the store in advance: it answers late, and many at once
_THREADS = 2
# A chunk that could not be had is not asked for again within this time: its pages are asked for
# one by one then, and the store was asked more than once already.
_FAILED_S = 1.0

_clock = time.monotonic


class Chunks(Protocol):
    """Stored chunks, as `reading.ChunkReader` gives them: verified, from any thread."""

    def chunk(self, digest: bytes, stored_length: int, *, urgent: bool) -> bytes:
        """The stored bytes; may block.  Raises UserfaultError."""
        ...

    def now(self, digest: bytes, stored_length: int) -> bytes | None:
        """The stored bytes if they are at hand without waiting."""
        ...

    def ahead(self, wanted: Sequence[tuple[bytes, int]]) -> None:
        """These chunks are wanted soon."""
        ...

    def close(self) -> None:
        """Let go of connections, end threads."""
        ...


class _Promise:
    """A chunk that a thread is unpacking."""

    __slots__ = ("_done", "error", "raw")

    def __init__(self) -> None:
        self._done = threading.Event()
        self.raw: bytes | None = None
        self.error: Exception | None = None

    def settle(self, raw: bytes | None, error: Exception | None) -> None:
        self.raw, self.error = raw, error
        self._done.set()

    def result(self) -> bytes:
        self._done.wait()
        if self.raw is None:
            assert self.error is not None
            raise self.error
        return self.raw


class Unpacked:
    """The unpacked chunks of `table`; `store` has them as they are stored.  Thread-safe."""

    def __init__(self, table: Table, store: Chunks, kept_bytes: int = KEPT_BYTES) -> None:
        self._table = table
        self._store = store
        self._room = kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # least lately used first
        self._promises: dict[int, _Promise] = {}
        self._failed: dict[int, tuple[float, Exception]] = {}
        self._ahead = _Ahead(self, table, store)
        self.counts = Counts()

    def get(self, chunk: int, *, urgent: bool) -> bytes:
        """The pages of a chunk.  May block.  Raises UserfaultError where it cannot be had."""
        with self._lock:
            kept = self._look(chunk)
            if kept is not None:
                return kept
            promise = self._promises.get(chunk)
            mine = promise is None
            if promise is None:
                promise = self._promises[chunk] = _Promise()
        if mine:
            self._keep_promise(chunk, promise, urgent=urgent)
        return promise.result()

    def at_hand(self, chunk: int, *, unpack: bool) -> bytes | None:
        """The same without waiting, or None.  `unpack`: also if it has to be unpacked first."""
        with self._lock:
            kept = self._look(chunk)
        if kept is not None or not unpack or chunk in self._failed:
            return kept
        table = self._table
        try:
            stored = self._store.now(table.digest(chunk), table.stored_length(chunk))
            if stored is None:
                return None
            raw = self._unpack(chunk, stored)
        except Exception:  # `get` finds another copy, or tells what is wrong: here faults wait
            return None
        self.counts.at_once += 1
        with self._lock:
            self._keep(chunk, raw)
        return raw

    def prepare(self, chunk: int) -> None:
        """Unpack a chunk unless it is there or under way.  What is wrong hears who reads it."""
        with self._lock:
            if chunk in self._kept or chunk in self._promises:
                return
            promise = self._promises[chunk] = _Promise()
        self._keep_promise(chunk, promise, urgent=False)

    def reached(self, chunk: int, *, start: bool) -> None:
        """Somebody reads in the order of the table, and has come to `chunk`.

        `start`: threads may be started; they may run where the caller may.
        """
        self._ahead.reached(chunk, start=start)

    def close(self) -> None:
        """End the threads; nothing is unpacked any more."""
        self._ahead.close()
        self._store.close()

    def _look(self, chunk: int) -> bytes | None:
        """With the lock held: what is kept."""
        kept = self._kept.get(chunk)
        if kept is not None:
            self._kept.move_to_end(chunk)
            self.counts.hits += 1
        return kept

    def _keep(self, chunk: int, raw: bytes) -> None:
        """With the lock held: keep a chunk, and forget those not used for longest."""
        before = self._kept.pop(chunk, b"")
        self._kept[chunk] = raw
        self._room += len(before) - len(raw)
        while self._room < 0 and len(self._kept) > 1:
            _, forgotten = self._kept.popitem(last=False)
            self._room += len(forgotten)

    def _keep_promise(self, chunk: int, promise: _Promise, *, urgent: bool) -> None:
        raw: bytes | None = None
        error: Exception | None = None
        try:
            raw = self._read(chunk, urgent=urgent)
        except Exception as caught:  # whatever it is: those who wait must hear of it
            error = caught
        with self._lock:
            if raw is not None:
                self._keep(chunk, raw)
            elif error is not None:
                self._failed[chunk] = _clock(), error
                self.counts.failed += 1
            del self._promises[chunk]
        promise.settle(raw, error)

    def _read(self, chunk: int, *, urgent: bool) -> bytes:
        failed = self._failed.get(chunk)
        if failed is not None:
            if _clock() - failed[0] < _FAILED_S:
                raise failed[1]
            del self._failed[chunk]
        table = self._table
        stored = self._store.chunk(table.digest(chunk), table.stored_length(chunk), urgent=urgent)
        return self._unpack(chunk, stored)

    def _unpack(self, chunk: int, stored: bytes) -> bytes:
        length = self._table.raw_length(chunk)
        raw = chunks.decode(stored, length)
        if len(raw) != length:
            raise FormatError(
                f"chunk {self._table.digest(chunk).hex()} is not what the manifest says",
                cause=f"it holds {len(raw)} bytes where there should be {length}",
                cure="the store is damaged: restore it from a copy",
            )
        counts = self.counts  # close enough where two threads count at once
        counts.unpacked += 1
        counts.stored_bytes += len(stored)
        counts.raw_bytes += length
        return raw


class _Ahead:
    """Unpacks chunks before they are asked for.  Its threads start with the first reader in order,
    on the CPUs where that one may run."""

    def __init__(self, unpacked: Unpacked, table: Table, store: Chunks) -> None:
        self._unpacked = unpacked
        self._table = table
        self._store = store
        self._wake = threading.Condition()
        self._reached = -1  # where the reader is
        self._next = 0  # the chunk that the next free thread takes
        self._stop = 0  # how far that may go
        self._asked = 0  # how far the store was asked
        self._started = False
        self._closed = False

    def reached(self, chunk: int, *, start: bool) -> None:
        """The reader has come to `chunk`.  Without `start`, nothing is begun."""
        if chunk == self._reached or not (self._started or start):
            return
        depth = max(_AHEAD_BYTES // self._table.raw_length(chunk), _THREADS)
        with self._wake:
            self._reached = chunk
            if chunk < self._next - 2 * depth:  # it began anew
                self._next = self._asked = 0
            self._next = max(self._next, chunk + 1)
            self._stop = min(chunk + 1 + depth, self._table.chunks)
            if not self._started and not self._closed:
                self._started = True
                for _ in range(_THREADS):
                    threading.Thread(target=self._work, daemon=True).start()
            self._wake.notify()

    def close(self) -> None:
        """End the threads, each when it has done what it does."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._next >= self._stop and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                chunk = self._next
                self._next += 1
                asked = range(max(self._asked, chunk), min(chunk + _READ_AHEAD, self._table.chunks))
                self._asked = max(self._asked, asked.stop)
            if asked:
                table = self._table
                self._store.ahead(
                    [(table.digest(each), table.stored_length(each)) for each in asked]
                )
            self._unpacked.prepare(chunk)
