"""Compressing and storing chunks in threads: zstd, BLAKE3 and writes run without the GIL.

A few chunks wait at any time and no more, so that a slow store slows the pack down and costs no
memory.
"""

from __future__ import annotations

import os
import queue
import threading

from userfault.snapshot.format import chunk
from userfault.snapshot.format.manifest import ChunkTable
from userfault.snapshot.stores.keys import DIGEST_BYTES, chunk_key
from userfault.snapshot.stores.objects import Objects

_MOST_THREADS = 8
_WAITING = 2  # chunks a thread


class ChunkWriter:
    """Stores chunks and tells the table their digests and lengths.

    The first error ends it: `submit` and `drain` raise it, chunks that wait are dropped.
    """

    def __init__(
        self, objects: Objects, table: ChunkTable, level: int, threads: int | None = None
    ) -> None:
        self._objects = objects
        self._table = table
        self._level = level
        self._todo: queue.SimpleQueue[tuple[int, bytearray] | None] = queue.SimpleQueue()
        self._count = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._slots = threading.Semaphore(self._count * _WAITING)
        self._error: BaseException | None = None
        self._closed = False
        self.stored_bytes = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"userfault-pack-{n}", daemon=True)
            for n in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, number: int, raw: bytearray) -> None:
        """Store these pages as chunk `number` of the table; waits while too many others do."""
        self._slots.acquire()
        self._raise()
        self._todo.put((number, raw))

    def drain(self) -> None:
        """Wait until everything submitted is stored."""
        for _ in range(self._count * _WAITING):
            self._slots.acquire()
        self._slots.release(self._count * _WAITING)
        self._raise()

    def close(self) -> None:
        """End the threads; chunks that wait are dropped unless `drain` came before."""
        self._closed = True
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                if self._error is None and not self._closed:
                    self._store(*item)
            except BaseException as error:  # it is raised where the pack runs
                self._error = self._error or error
            finally:
                self._slots.release()

    def _store(self, number: int, raw: bytearray) -> None:
        stored = chunk.encode(raw, self._level)
        self._objects.put(chunk_key(stored.digest), stored.data)
        at = number * DIGEST_BYTES
        self._table.digests[at : at + DIGEST_BYTES] = stored.digest
        self._table.stored[number] = len(stored.data)
        self.stored_bytes += len(stored.data)
