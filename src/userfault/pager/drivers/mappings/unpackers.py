"""Processes that unpack chunks in advance, beside the worker that fills memory.

Threads would do as well but for the GIL: to read, verify and decompress one chunk gives it up and
takes it again some six times, and each time costs a wake-up; two threads beside the loop took
twice the CPU time (measured on 6.18 with Python 3.11).  A process puts what it has unpacked into
memory that it shares with the worker, who copies it from there.

They start when the first image has been read in order for a while, and serve all images of the
worker: what they unpack in advance is what lies behind.  A working set takes a chunk here and
there, or the few that are laid out for it, and would only lose the CPUs that they start on.  Until
they have come up, and if they cannot be started, the threads of `readers.py` do their work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import signal
import socket
import sys
import time
import weakref
from collections import deque
from typing import Any

import msgspec

from userfault.kernel.errors import PagerError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux import pidfd
from userfault.linux.parent import end_with_parent
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.say import Errors
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.processes.watching import Watching
from userfault.pager.drivers.shared.copy import SharedCopy
from userfault.snapshot.serving.source import SnapshotSource
from userfault.source.spec import StoreSpec

_PROCESSES = 2
_SLOT = 1 << 20  # one request fills one: eight chunks of the usual size
_SLOTS = 10
_AHEAD = 8 << 20  # raw bytes before whoever reads
_QUEUED = 2  # requests for one process at once
_FIRST_S = 0.05  # the first touch of an image goes before their start, which takes the loop as long
_BEFORE = 8 << 20  # raw bytes reached in order before their start, which takes longer than these
_DEATHS = 4  # of processes, until no more are started
_MOST = 1 << 16  # bytes of a message


class Open(msgspec.Struct, tag="open"):
    """Chunks of this image will be wanted.  Its table comes along as a descriptor."""

    number: int
    spec: StoreSpec


class Shut(msgspec.Struct, tag="shut"):
    """They will not."""

    number: int


class Unpack(msgspec.Struct, tag="unpack"):
    """Put these chunks into slot `slot`, one behind the other."""

    number: int
    slot: int
    chunks: list[int]


class Done(msgspec.Struct):
    """The first `count` chunks asked for are there; the next one could not be had."""

    count: int


class _Process:
    """One process, and what it was asked for, oldest first.  `known`: the images it has."""

    def __init__(self, slots: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            path = lean_path()
            self.pid = spawn_python(__name__, "work", theirs.fileno(), path)
            socket.send_fds(ours, [b"slots"], [slots])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = ours
        self.asked: deque[tuple[Unpack, _Image]] = deque()
        self.known: set[int] = set()

    def send(self, message: Open | Shut | Unpack, fds: list[int] | None = None) -> None:
        """Raises OSError when it has died."""
        socket.send_fds(self.channel, [msgspec.msgpack.encode(message)], fds or [])

    def close(self) -> None:
        """Kill and reap it: it may wait for a store."""
        self.channel.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class _Image:
    """An image that is read in the order of its table."""

    def __init__(
        self,
        number: int,
        spec: StoreSpec,
        table: int,
        source: SnapshotSource,
        copy: SharedCopy | None,
    ) -> None:
        self.number = number
        self.spec = spec
        self.table = table  # descriptor
        self.source = source
        self.copy = copy
        self.next = 0  # the chunk that is asked for next
        self.stop = 0  # how far that goes
        self.at = -1  # where the reader is
        self.passed = 0  # raw bytes that it has come through in order, less those out of it
        self.elsewhere = -2  # where it was once, out of order
        self.lent: deque[int] = deque()  # chunks in slots

    def reached(self, chunk: int) -> bool:
        """The reader has come to `chunk`; whether what lies behind it is wanted next."""
        if chunk == self.at:
            return False
        table = self.source.table
        depth = max(_AHEAD // table.raw_length(chunk), 1)
        if not self.next - 2 * depth <= chunk <= self.next + depth:
            # A stream of faults reads in advance too, somewhere: twice in order is another order.
            if chunk not in (self.elsewhere, self.elsewhere + 1):
                self.elsewhere = chunk
                return False
            self.next = chunk
            self._let_go(len(self.lent))
        follows = chunk == self.at + 1
        self.at = chunk
        length = table.raw_length(chunk)
        self.passed = max(self.passed + (length if follows else -length), 0)
        self.next = max(self.next, chunk)
        self.stop = min(chunk + 1 + depth, table.chunks)
        passed = 0
        while passed < len(self.lent) and self.lent[passed] < chunk:
            passed += 1
        self._let_go(passed)
        return follows

    def _let_go(self, count: int) -> None:
        """The reader has passed by the first chunks in slots."""
        for _ in range(count):
            self.source.unpacked.let_go(self.lent.popleft())

    def take(self) -> list[int]:
        """The chunks of the next request."""
        taken: list[int] = []
        room = _SLOT
        table = self.source.table
        while self.next < self.stop and table.raw_length(self.next) <= room:
            if self._wanted(self.next) and self.source.unpacked.claim(self.next):
                taken.append(self.next)
                room -= table.raw_length(self.next)
            self.next += 1
        return taken

    def _wanted(self, chunk: int) -> bool:
        """Whether any page of a chunk has to come from it, and is not in a shared copy."""
        table, copy = self.source.table, self.copy
        if copy is None:
            return True
        return any(copy.lacks(*table.turn(turn)) for turn in range(*table.turns_of(chunk)))


class Unpackers:
    """The processes, and the memory in which they answer."""

    def __init__(self, loop: Watching) -> None:
        self._loop = loop
        self._not_before = 0.0
        self._images: dict[int, _Image] = {}
        self._processes: list[_Process] = []
        self._fd = -1
        self._memory: mmap.mmap | None = None
        self._free: deque[int] = deque(range(_SLOTS))
        self._refs: dict[int, Any] = {}  # weak references to what lies in slots
        self._deaths = 0

    def attach(self, served: Served) -> None:
        """Unpack for a mapping whose source is a snapshot."""
        spec, store = served.attach.source, served.origin.store
        if isinstance(spec, StoreSpec) and store is not None:
            image = _Image(served.key, spec, served.origin.fd, store, served.copy)
            self._images[served.key] = image
            if not self._not_before:
                self._not_before = time.monotonic() + _FIRST_S
            store.reached = functools.partial(self._reached, image)

    def detach(self, served: Served) -> None:
        """It is served no more."""
        image = self._images.pop(served.key, None)
        if image is None:
            return
        image.source.reached = None
        image.stop = 0
        for process in list(self._processes):
            if image.number in process.known:
                process.known.discard(image.number)
                self._send(process, Shut(image.number))

    def close(self) -> None:
        """End the processes."""
        for process in list(self._processes):
            self._drop(process)

    def _reached(self, image: _Image, chunk: int) -> None:
        if image.reached(chunk):
            self._ask()

    def _ask(self) -> None:
        """Hand out work, as far as there is any and somebody to do it."""
        for image in list(self._images.values()):
            while image.next < image.stop and self._free:
                process = self._idlest(image)
                if process is None or not (chunks := image.take()):
                    break
                self._unpack(process, image, chunks)

    def _idlest(self, image: _Image) -> _Process | None:
        lacking = len(self._processes) < _PROCESSES and self._deaths < _DEATHS
        if lacking and image.passed >= _BEFORE and time.monotonic() >= self._not_before:
            self._start()
        found = min(self._processes, key=lambda each: len(each.asked), default=None)
        return found if found is not None and len(found.asked) < _QUEUED else None

    def _start(self) -> None:
        """Have as many processes as there should be, or as there can be."""
        try:
            if self._memory is None:
                self._fd = os.memfd_create("userfault-unpacked", os.MFD_CLOEXEC)
                os.ftruncate(self._fd, _SLOT * _SLOTS)
                self._memory = mmap.mmap(self._fd, _SLOT * _SLOTS)
            while len(self._processes) < _PROCESSES:
                with self._loop.lifted():
                    process = _Process(self._fd)
                self._processes.append(process)
                handler = functools.partial(self._answered, process)
                self._loop.watch(process.channel.fileno(), handler)
        except (OSError, PagerError):  # no memory, no descriptor, no process
            self._deaths += 1

    def _unpack(self, process: _Process, image: _Image, chunks: list[int]) -> None:
        request = Unpack(image.number, self._free.popleft(), chunks)
        process.asked.append((request, image))
        if image.number not in process.known:
            process.known.add(image.number)
            if not self._send(process, Open(image.number, image.spec), [image.table]):
                return
        self._send(process, request)

    def _send(
        self, process: _Process, message: Open | Shut | Unpack, fds: list[int] | None = None
    ) -> bool:
        try:
            process.send(message, fds)
        except OSError:
            self._died(process)
            return False
        return True

    def _answered(self, process: _Process) -> None:
        data = b""
        with contextlib.suppress(OSError):  # reset by its death: the same as end of file
            data = process.channel.recv(_MOST)
        if not data:
            self._died(process)
            return
        request, image = process.asked.popleft()
        self._take(request, image, msgspec.msgpack.decode(data, type=Done).count)
        self._ask()

    def _take(self, request: Unpack, image: _Image, count: int) -> None:
        """Chunks of a request are in its slot, `count` of them."""
        unpacked, table = image.source.unpacked, image.source.table
        wanted = self._images.get(image.number) is image
        memory = self._memory
        assert memory is not None
        held = (ctypes.c_char * _SLOT).from_buffer(memory, request.slot * _SLOT)
        view = memoryview(held).cast("B").toreadonly()
        at = 0
        for number, chunk in enumerate(request.chunks):
            length = table.raw_length(chunk)
            if number < count and wanted:
                unpacked.deliver(chunk, view[at : at + length])
                image.lent.append(chunk)
            else:
                unpacked.disclaim(chunk)
            at += length
        # When the last view of it is gone, the slot is free.
        self._refs[request.slot] = weakref.ref(held, functools.partial(self._freed, request.slot))

    def _freed(self, slot: int, _: object) -> None:
        self._refs.pop(slot, None)
        self._free.append(slot)

    def _died(self, process: _Process) -> None:
        """It was killed, or has failed: what it was asked for is read by threads."""
        self._deaths += 1
        asked = list(process.asked)
        process.asked.clear()
        self._drop(process)
        for request, image in asked:
            self._free.append(request.slot)
            for chunk in request.chunks:
                image.source.unpacked.disclaim(chunk)

    def _drop(self, process: _Process) -> None:
        if process in self._processes:
            self._processes.remove(process)
            self._loop.forget(process.channel.fileno())
            process.close()


def work(channel: socket.socket) -> None:
    """The main program of a process: unpack until the pager is gone, and end with it."""
    sys.stderr = Errors()
    end_with_parent(os.getppid())
    with contextlib.suppress(ConnectionError):
        _answer(channel)


def _answer(channel: socket.socket) -> None:
    from userfault.snapshot.serving import taking_up  # noqa: PLC0415  # see `served.Origin`

    data, fds, *_ = pidfd.receive(channel, _MOST, 1)
    if not data:
        return
    slots = memoryview(mmap.mmap(fds[0], _SLOT * _SLOTS))
    requests = msgspec.msgpack.Decoder(Open | Shut | Unpack)
    images: dict[int, SnapshotSource] = {}
    while True:
        data, fds, *_ = pidfd.receive(channel, _MOST, 1)
        if not data:
            return
        request = requests.decode(data)
        if isinstance(request, Open):
            images[request.number] = taking_up.take_up(request.spec, fds[0], BASE_PAGE)[0]
            os.close(fds[0])
        elif isinstance(request, Shut):
            images.pop(request.number).close()
        else:
            source = images[request.number]
            start = request.slot * _SLOT
            count = source.unpacked.unpack_into(slots[start : start + _SLOT], request.chunks)
            channel.send(msgspec.msgpack.encode(Done(count)))
