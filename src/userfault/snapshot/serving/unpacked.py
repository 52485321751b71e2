"""Chunks of one image, unpacked: read, verified, decompressed, and kept for a while.

Reading and decompressing release the GIL, so they go on beside whoever fills memory.  A chunk that
two threads want at once is unpacked once.  Others may unpack chunks in advance: they `claim` them
and `deliver` them, in memory of their own.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from userfault.kernel.errors import UserfaultError
from userfault.snapshot.errors import StoreError
from userfault.snapshot.format.chunk import decode_exactly
from userfault.snapshot.serving.counts import Counts
from userfault.snapshot.serving.table import Table

KEPT_BYTES = 32 << 20  # of unpacked chunks, for each image that is served
_PATIENCE_S = 5.0  # with whoever unpacks the chunk already; then it is read a second time
# A chunk that could not be had is not asked for again within this time: its pages are asked for
# one by one then, and the store was asked more than once already.
_FAILED_S = 1.0

_clock = time.monotonic


class Chunks(Protocol):
    """Stored chunks, as `reading.ChunkReader` gives them: verified, from any thread."""

    def chunk(
        self, digest: bytes, stored_length: int, *, urgent: bool, waited: float = 0.0
    ) -> bytes:
        """The stored bytes; may block, `waited` seconds less.  Raises UserfaultError."""
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
    """A chunk that is being unpacked.  `lent`: by others, in advance, who may take their time."""

    __slots__ = ("_done", "error", "lent", "raw")

    def __init__(self, *, lent: bool) -> None:
        self._done = threading.Event()
        self.lent = lent
        self.raw: memoryview | None = None
        self.error: Exception | None = None

    def settle(self, raw: memoryview | None, error: Exception | None) -> None:
        self.raw, self.error = raw, error
        self._done.set()

    def wait(self, timeout_s: float) -> memoryview | None:
        """The pages; None where they do not come.  Raises what went wrong."""
        self._done.wait(timeout_s)
        if self.error is not None:
            raise self.error
        return self.raw


class _Failure(NamedTuple):
    """Why a chunk could not be had.  (An exception would keep what it met on its way.)"""

    when: float
    what: str
    cause: str
    cure: str


class Unpacked:
    """The unpacked chunks of `table`; `store` has them as they are stored.  Thread-safe."""

    def __init__(self, table: Table, store: Chunks, kept_bytes: int = KEPT_BYTES) -> None:
        self._table = table
        self._store = store
        self._room = kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, memoryview] = OrderedDict()  # least lately used first
        self._lent: dict[int, memoryview] = {}  # unpacked by others, in their memory
        self._promises: dict[int, _Promise] = {}
        self._failed: dict[int, _Failure] = {}
        self.counts = Counts()

    def get(self, chunk: int, *, urgent: bool, waited: float = 0.0) -> memoryview:
        """The pages of a chunk.  May block.  Raises UserfaultError where it cannot be had.

        `waited`: seconds that whoever wants them has waited already.
        """
        began = _clock() - waited
        mine = _Promise(lent=False)
        with self._lock:
            kept = self._look(chunk)
            if kept is not None:
                return kept
            self._raise_failed(chunk)
            found = self._promises.setdefault(chunk, mine)
        if found is mine:
            return self._fulfil(chunk, mine, urgent=urgent, waited=waited)
        if not (urgent and found.lent):  # who unpacks in advance is not waited for in a fault
            raw = found.wait(_PATIENCE_S)
            if raw is not None:
                return raw
        return self._read(chunk, urgent=urgent, waited=_clock() - began)

    def at_hand(self, chunk: int, *, unpack: bool) -> memoryview | None:
        """The same without waiting, or None.  `unpack`: also if it has to be unpacked first."""
        with self._lock:
            kept = self._look(chunk)
        if kept is not None or not unpack or chunk in self._failed:
            return kept
        table = self._table
        try:
            digest = table.digest(chunk)
            stored = self._store.now(digest, table.stored_length(chunk))
            if stored is None:
                return None
            raw = self._unpack(chunk, digest, stored)
        except Exception:  # `get` finds another copy, or tells what is wrong: here faults wait
            return None
        self.counts.at_once += 1
        with self._lock:
            self._keep(chunk, raw)
        return raw

    def unpack_into(self, target: memoryview, wanted: Sequence[int]) -> int:
        """Unpack chunks into `target`, one behind the other, until one cannot be had; how many."""
        table = self._table
        listed = [(table.digest(chunk), table.stored_length(chunk)) for chunk in wanted]
        asked = False
        at = 0
        for number, chunk in enumerate(wanted):
            try:
                stored = self._store.now(*listed[number])
                if stored is None:
                    if not asked:
                        self._store.ahead(listed[number:])
                        asked = True
                    stored = self._store.chunk(*listed[number], urgent=False)
                raw = self._unpack(chunk, listed[number][0], stored)
            except Exception:  # whoever wants it reads it, and tells what is wrong
                return number
            target[at : at + len(raw)] = raw
            at += len(raw)
        return len(wanted)

    def claim(self, chunk: int) -> bool:
        """Whether a chunk is neither there nor under way.  If so it is the caller's, who answers by
        `deliver` or `disclaim`."""
        with self._lock:
            if chunk in self._kept or chunk in self._promises or chunk in self._failed:
                return False
            self._promises[chunk] = _Promise(lent=True)
            return True

    def deliver(self, chunk: int, raw: memoryview) -> None:
        """The pages of a chunk that was claimed.  They are kept until `let_go`, or close."""
        with self._lock:
            self._lent[chunk] = raw
            promise = self._promises.pop(chunk)
        promise.settle(raw, None)
        self._count(self._table.stored_length(chunk), len(raw))

    def disclaim(self, chunk: int) -> None:
        """A chunk that was claimed will not come: whoever waits reads it."""
        with self._lock:
            promise = self._promises.pop(chunk)
        promise.settle(None, None)

    def let_go(self, chunk: int) -> None:
        """A chunk that was delivered is wanted no more."""
        with self._lock:
            self._lent.pop(chunk, None)

    def forget(self) -> None:
        """Nothing is wanted for some time: free the memory."""
        with self._lock:
            self._room += sum(map(len, self._kept.values()))
            self._kept.clear()
            self._lent.clear()

    def close(self) -> None:
        """Let go of the store; whoever waits for a chunk hears so."""
        self._store.close()
        self.forget()

    def _look(self, chunk: int) -> memoryview | None:
        """With the lock held: what is kept."""
        kept = self._kept.get(chunk)
        if kept is not None:
            self._kept.move_to_end(chunk)
        else:
            kept = self._lent.get(chunk)
        self.counts.hits += kept is not None
        return kept

    def _keep(self, chunk: int, raw: memoryview) -> None:
        """With the lock held: keep a chunk, and forget those not used for longest."""
        before = self._kept.pop(chunk, None)
        self._kept[chunk] = raw
        self._room += (len(before) if before is not None else 0) - len(raw)
        while self._room < 0 and len(self._kept) > 1:
            _, forgotten = self._kept.popitem(last=False)
            self._room += len(forgotten)

    def _fulfil(self, chunk: int, promise: _Promise, *, urgent: bool, waited: float) -> memoryview:
        raw: memoryview | None = None
        error: Exception | None = None
        try:
            raw = self._read(chunk, urgent=urgent, waited=waited)
        except Exception as caught:  # whatever it is: those who wait must hear of it
            error = caught
            raise
        finally:
            with self._lock:
                del self._promises[chunk]
            promise.settle(raw, error)
        return raw

    def _read(self, chunk: int, *, urgent: bool, waited: float) -> memoryview:
        table = self._table
        digest, length = table.digest(chunk), table.stored_length(chunk)
        try:
            stored = self._store.chunk(digest, length, urgent=urgent, waited=waited)
            raw = self._unpack(chunk, digest, stored)
        except UserfaultError as error:
            with self._lock:
                self._failed[chunk] = _Failure(_clock(), error.what, error.cause, error.cure)
                self.counts.failed += 1
            raise
        with self._lock:
            self._keep(chunk, raw)
        return raw

    def _raise_failed(self, chunk: int) -> None:
        """With the lock held: what went wrong with a chunk a moment ago."""
        failed = self._failed.get(chunk)
        if failed is None:
            return
        if _clock() - failed.when < _FAILED_S:
            raise StoreError(failed.what, cause=failed.cause, cure=failed.cure)
        del self._failed[chunk]

    def _unpack(self, chunk: int, digest: bytes, stored: bytes) -> memoryview:
        length = self._table.raw_length(chunk)
        raw = memoryview(decode_exactly(digest, stored, length))
        self._count(len(stored), length)
        return raw

    def _count(self, stored: int, raw: int) -> None:
        counts = self.counts  # close enough where two threads count at once
        counts.unpacked += 1
        counts.stored_bytes += stored
        counts.raw_bytes += raw
