"""VMs that ask for their pages: what is kept for each, and how their pages are read."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from userfault.kernel.errors import SourceError, UserfaultError
from userfault.linux.refused import calling, cause_of
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.processes.watching import Loop
from userfault.serve import records
from userfault.serve.delivering import Bytes, Delivers, IntoMemory, Part, Parts, WithTheAnswer
from userfault.serve.guest_memory import IntoGuest
from userfault.serve.keeping import let_go
from userfault.serve.peers import RefusedError
from userfault.serve.records import Restore
from userfault.source.file import FileSource
from userfault.source.spec import FileSpec, Spec, StoreSpec

if TYPE_CHECKING:
    from userfault.snapshot.serving.source import SnapshotSource

_TRIES = 6
_PAUSE_S = 0.05  # before the second try; doubled for each one after it

Delivered = Callable[[Bytes | None, str], None]  # the bytes; or None, and why there are none


class _Reads(Protocol):
    """A source of bytes, as threads read it."""

    def read(self, offset: int, length: int, *, urgent: bool, waited: float) -> Bytes: ...
    def close(self) -> None: ...


class Restored:
    """One of them, as far as this worker has it open."""

    def __init__(self, told: Restore, kept: list[int], reading: Reading) -> None:
        self.told = told
        self._reading = reading
        self._source, self._now = _opened(told.spec, os.dup(kept[told.source]))
        offset, parts = 0, []
        for gpa, length in told.parts:
            parts.append(Part(gpa, length, offset))
            offset += length
        self._parts = Parts(parts)
        slots = [(Part(gpa, size, at), kept[memory]) for gpa, size, at, memory in told.slots]
        self._guest = Parts([part for part, _ in slots] or parts)
        self.into: Delivers = WithTheAnswer()
        if told.secret is not None:
            (part, guest), *_ = slots
            pages = part.length // told.page_size
            self.into = IntoGuest(guest, kept[told.secret.bitmap], kept[told.states], pages)
        elif slots:
            self.into = IntoMemory(slots, kept[told.states], told.page_size)
        self.connections = 0

    @property
    def shared(self) -> bool:
        """Pages go into memory that the VM has, too."""
        return bool(self.told.slots)

    def check(self, gpa: int, length: int) -> None:
        """Raise RefusedError for what is no memory of this VM."""
        size = self.told.page_size
        most = max(size, 2 << 20)
        if not 0 < length <= most or gpa % size or length % size:
            raise _strange(gpa, length, f"it is no whole pages of {size}, {most} bytes at most")
        if self._guest.whole(gpa, length) is None:
            raise _strange(gpa, length, "the VM has no memory there")

    def deliver(self, gpa: int, length: int, told: Delivered) -> None:
        """Have the bytes where they belong, and tell: at once, or later, from the loop."""
        _Delivery(self, self._reading, gpa, length, told).try_now()

    def bytes_at_hand(self, gpa: int, length: int) -> Bytes | None:
        """Without waiting."""
        offset = self._parts.whole(gpa, length)
        if offset is not None:
            return self._now(offset, length)
        if all(where < 0 for where, _ in self._parts.pieces(gpa, length)):
            return bytes(length)
        return None

    def read(self, gpa: int, length: int, waited: float) -> Bytes:
        """In a thread.  Raises SourceError."""
        pieces = [
            self._source.read(offset, size, urgent=True, waited=waited)
            if offset >= 0
            else bytes(size)
            for offset, size in self._parts.pieces(gpa, length)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of what this worker has opened."""
        self.into.close()
        self._source.close()


class _Delivery:
    """One request: read until it succeeds or was tried often enough."""

    def __init__(
        self, restored: Restored, reading: Reading, gpa: int, length: int, told: Delivered
    ) -> None:
        self._restored, self._reading, self._told = restored, reading, told
        self._gpa, self._length = gpa, length
        self._tries = 0
        self._began = time.monotonic()
        self._data: Bytes | None = None
        self._cause = ""
        self.stuck = False
        self.at = 0.0

    def try_now(self) -> None:
        """From the loop."""
        restored = self._restored
        try:
            if restored.into.there(self._gpa, self._length):
                self._told(b"", "")
                return
            data = restored.bytes_at_hand(self._gpa, self._length)
        except OSError as error:
            self._failed(cause_of(error))
            return
        if data is not None:
            self._put(data)
            return
        try:
            self._reading.threads().give(self)
        except (OSError, RuntimeError) as error:
            self._failed(f"no thread to read with: {error}")

    def run(self) -> None:
        """In a thread."""
        self._data = None
        try:
            waited = time.monotonic() - self._began
            self._data = self._restored.read(self._gpa, self._length, waited)
        except SourceError as error:
            self._cause = f"{error.what}: {error.cause}"
        except Exception as error:  # a bug there must not leave a VM waiting
            self._cause = f"{type(error).__name__}: {error}"
        self._reading.done.append(self.finish)

    def finish(self) -> None:
        """In the loop again."""
        if self._data is None:
            self._failed(self._cause)
        else:
            self._put(self._data)

    def _put(self, data: Bytes) -> None:
        try:
            self._restored.into.put(self._gpa, data)
        except OSError as error:
            self._failed(cause_of(error))
            return
        self._told(data, "")

    def _failed(self, cause: str) -> None:
        self._tries += 1
        if self._tries >= _TRIES:
            self._told(None, cause)
            return
        self.at = time.monotonic() + _PAUSE_S * 2**self._tries
        self._reading.again(self)


class Reading:
    """Threads for all of them, and requests that are to be tried again."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._threads: Threads | None = None
        self._later: list[_Delivery] = []
        self.done: deque[Callable[[], None]] = deque()  # append and popleft are atomic

    def threads(self) -> Threads:
        """Those that read."""
        if self._threads is None:
            with calling("eventfd2"):
                bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._threads = Threads(bell, self._loop)
            self._loop.watch(bell, self._ring)
        return self._threads

    def again(self, delivery: _Delivery) -> None:
        """When its time has come."""
        self._later.append(delivery)
        self._loop.timers[self] = None

    def next_time(self) -> float | None:
        """Of the first."""
        return min((each.at for each in self._later), default=None)

    def tick(self, now: float) -> None:
        """Try those again whose pause is over."""
        due = [each for each in self._later if each.at <= now]
        self._later = [each for each in self._later if each.at > now]
        for each in due:
            each.try_now()

    def close(self) -> None:
        """Hear of no more."""
        if self._threads is not None:
            bell = self._threads.bell
            self._loop.forget(bell)
            self._threads.close(functools.partial(os.close, bell))
            self._threads = None

    def _ring(self) -> None:
        assert self._threads is not None, "its bell rings"
        try:
            os.eventfd_read(self._threads.bell)
        except BlockingIOError:
            return
        while self.done:
            self.done.popleft()()


class Restores:
    """All of a daemon's: `told` what is recorded, in `book`."""

    def __init__(self, told: records.Daemon, book: Book, loop: Loop) -> None:
        self._told = told
        self._book = book
        self._open: dict[str, Restored] = {}
        self._reading = Reading(loop)

    def join(self, door: str) -> tuple[Restored, int]:
        """For a connection, whose door is `TOKEN/NUMBER`: what it asks for, and its file.

        Raises RefusedError, OSError, UserfaultError.
        """
        token, _, number = door.rpartition("/")
        restored = self.open(token)
        return restored, self._book.kept[restored.told.exchanges[int(number)]]

    def open(self, token: str) -> Restored:
        """For one conversation, which leaves it.  Raises RefusedError, OSError, UserfaultError."""
        restored = self._open.get(token)
        if restored is None:
            told = self.found(token)
            if told is None:
                raise RefusedError("a VM of which nothing is recorded", cause=token, cure="")
            restored = self._open[token] = Restored(told, self._book.kept, self._reading)
        restored.connections += 1
        return restored

    def found(self, token: str) -> Restore | None:
        """What is recorded of it."""
        return next((each for each in self._told.restores if each.token == token), None)

    def leave(self, restored: Restored) -> None:
        """A connection has ended; with the last one, what is kept goes."""
        restored.connections -= 1
        if restored.connections:
            return
        token = restored.told.token
        self._open.pop(token, None)
        restored.close()
        if any(each.door.startswith(f"{token}/") for each in self._book.clients.values()):
            return
        self.forget(restored.told)

    def add(self, told: Restore) -> None:
        """Record it.  Raises PagerError."""
        self._told.restores.append(told)
        self._write()

    def forget(self, told: Restore) -> None:
        """Nobody needs it any more."""
        self._told.restores.remove(told)
        kept = self._book.kept
        freed = [let_go(kept, place) for place in told.places]
        try:
            self._write()
        except UserfaultError:  # the record names them still
            return
        for fd in freed:
            os.close(fd)

    def close(self) -> None:
        """The worker ends."""
        self._reading.close()

    def _write(self) -> None:
        self._book.about = records.encode(self._told)
        self._book.write()


def _opened(spec: Spec, fd: int) -> tuple[_Reads, Callable[[int, int], Bytes | None]]:
    """The source, and how it is read without waiting; `fd` is its from here on."""
    if isinstance(spec, StoreSpec):
        # It brings zstd and BLAKE3 along, which a daemon of files has no use for.
        from userfault.snapshot.serving.taking_up import take_up  # noqa: PLC0415

        try:
            store, _ = take_up(spec, fd, 4096)
        finally:
            os.close(fd)
        return store, functools.partial(_from_store, store)
    if isinstance(spec, FileSpec):
        file = FileSource(spec, fd)
        return file, functools.partial(_from_file, file)
    os.close(fd)
    raise RefusedError(
        "a source that is no snapshot",
        cause=f"{type(spec).__name__} has no memory of a VM",
        cure="name a snapshot in a store, or its folder",
    )


def _from_store(store: SnapshotSource, offset: int, length: int) -> Bytes | None:
    return store.at_hand(offset, length, urgent=True)


def _from_file(file: FileSource, offset: int, length: int) -> Bytes | None:
    into = bytearray(length)
    try:
        return into if file.read_now(offset, memoryview(into)) and not file.changed() else None
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def _strange(gpa: int, length: int, cause: str) -> RefusedError:
    return RefusedError(
        f"a request for {length} bytes at {gpa:#x}",
        cause=cause,
        cure="restore with the snapshot's own configuration",
    )
