"""The calls of a worker on the model: ioctl(2) and read(2) of userfaultfds, and its own memory."""

from __future__ import annotations

import errno
import struct
from typing import Protocol

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno, Killed, Signalled
from userfault.model.mm import access
from userfault.model.mm.mmap import Behind, mmap
from userfault.model.process import Thread
from userfault.model.uffd import ioctls, messages
from userfault.model.uffd.messages import UffdFile
from userfault.pager.core.actions import ZERO, Found, Inspect
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.model.kernel import Kernel, WorkerKilled
from userfault.pager.drivers.serving.calls import Calls, Placed
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_LENGTH_AT = {  # of what fills
    abi.UFFDIO_COPY: 16,
    abi.UFFDIO_ZEROPAGE: 8,
    abi.UFFDIO_CONTINUE: 8,
    abi.UFFDIO_POISON: 8,
}
_Q = struct.Struct("=Q")
_ANYWHERE = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
_BOTH = mman.PROT_READ | mman.PROT_WRITE


class _Argument:
    """An ioctl's argument where it lies: what the kernel writes there is there at once.

    `length`: what the kernel reads in place of the length that is there.
    """

    def __init__(self, held: memoryview | bytearray, at: int = 0, length: int = -1) -> None:
        self._held = held
        self._at = at
        self._length = length

    def read(self, length: int) -> bytes:
        found = bytes(self._held[:length])
        if self._length < 0:
            return found
        return found[: self._at] + _Q.pack(self._length) + found[self._at + 8 :]

    def write(self, offset: int, data: bytes) -> None:
        self._held[offset : offset + len(data)] = data


class _At:
    """Bytes in a buffer of the worker's."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __enter__(self) -> _At:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Bytes(Protocol):
    """What the source holds, to compare with."""

    def page(self, number: int) -> bytes:
        """How this page begins; zeros follow."""


class Held(Protocol):
    """The file behind the memory that is served."""

    def read(self, offset: int, length: int) -> bytes: ...
    def punch(self, offset: int, length: int) -> None: ...


class ModelCalls(Calls):
    """Those of one worker, `task`.  `source`: what it serves."""

    threads = False  # its tasks are not threads of ours

    def __init__(self, kernel: Kernel, task: Thread, source: Bytes) -> None:
        self.kernel = kernel
        self.task = task
        self._source = source
        self.clock = lambda: kernel.clock.now
        self.ioctl = self._ioctl
        self.readv = self._readv
        self.rung: set[int] = set()  # bells
        self._buffer = (0, 0)  # address and length of where fetched bytes are put
        self._empty = (0, 0)  # of pages never written

    def point(self, name: str) -> None:
        """The worker may be killed here, if it may at all."""
        if self.kernel.mortal:
            self.kernel.point(self.task, name)

    # --- userfaultfds ----------------------------------------------------------------------------

    def _ioctl(self, fd: int, request: int, argument: memoryview | bytearray) -> None:
        self.kernel.point(self.task, "ioctl")
        at = _LENGTH_AT.get(request, 0)
        limited, refused = -1, 0
        if at:
            start, length = _Q.unpack_from(argument)[0], _Q.unpack_from(argument, at)[0]
            refused, done = self.kernel.weather.refusal(request, start, length // PAGE)
            if refused and not done:
                raise OSError(refused, "injected")
            limited = done * PAGE if refused else -1
        process = self.kernel.process
        try:
            file = process.file(fd)
            assert isinstance(file, UffdFile)
            with process.using(file):
                held = _Argument(argument, at, limited)
                ioctls.ioctl(self.task, process, file.context, request, held)
        except Errno as refusal:
            self.point("ioctl done")
            raise OSError(refusal.code, str(refusal)) from None
        except Killed:
            raise WorkerKilled from None
        self.point("ioctl done")
        if refused:
            raise OSError(refused, "injected, in the middle")

    def read(self, fd: int, into: list[memoryview]) -> int:
        return self._read(fd, into[0], nowait=True)

    def _readv(self, fd: int, into: list[memoryview]) -> int:
        return self._read(fd, into[0], nowait=False)

    def _read(self, fd: int, into: memoryview, *, nowait: bool) -> int:
        self.kernel.point(self.task, "read")
        process = self.kernel.process
        try:
            file = process.file(fd)
            assert isinstance(file, UffdFile)
            found = messages.read(self.task, process, file, len(into), nowait=nowait)
        except Errno as refusal:
            self.point("read done")
            if refusal.code == errno.EAGAIN:
                raise BlockingIOError(refusal.code, "nothing to read") from None
            raise OSError(refusal.code, str(refusal)) from None
        except Killed:
            raise WorkerKilled from None
        into[: len(found)] = found  # where the kernel puts them one by one, before anybody is woken
        self.point("read done")
        return len(found)

    # --- threads that read -----------------------------------------------------------------------

    def bell(self) -> int:
        return self.kernel.number()

    def hear(self, bell: int) -> None:
        self.rung.discard(bell)

    def close(self, fd: int) -> None:
        self.rung.discard(fd)

    # --- the worker's memory ---------------------------------------------------------------------

    def place(self, data: memoryview) -> Placed:
        self._buffer = self._room(self._buffer, len(data))
        mm = self.kernel.process.mm
        try:
            access.store(self.task, mm, self._buffer[0], bytes(data), user=True)
        except (Errno, Signalled):
            if self.task.killed:  # so end the faults of a task that is on its way out
                raise WorkerKilled from None
            raise
        return _At(self._buffer[0])

    def punch(self, served: Served, offset: int, length: int) -> None:
        self.kernel.point(self.task, "fallocate")
        self._file(served).punch(offset, length)
        self.point("fallocate done")

    def held(self, served: Served, offset: int, length: int) -> memoryview:
        self.kernel.point(self.task, "pread")
        return memoryview(self._file(served).read(offset, length))

    def _file(self, served: Served) -> Held:
        held: Held = served.owner.estate.held  # type: ignore[attr-defined]  # a ModelOwner
        return held

    def zeros(self, length: int) -> int:
        self._empty = self._room(self._empty, length)
        return self._empty[0]

    def _room(self, held: tuple[int, int], length: int) -> tuple[int, int]:
        if held[1] >= length:
            return held
        process = self.kernel.process
        length = -(-length // PAGE) * PAGE
        behind = Behind(process.machine.types["anon"], None, 0)
        return mmap(self.task, process.mm, 0, length, _BOTH, _ANYWHERE, behind), length

    def gone(self, fd: int) -> bool:
        """Whether the address space behind a userfaultfd has ended."""
        held = self.kernel.process.fds.get(fd)
        return held is not None and isinstance(held[0], UffdFile) and not held[0].context.mm.alive

    # --- the client's memory ---------------------------------------------------------------------

    def look(self, context: Context, action: Inspect) -> Found:
        served = context.served
        if context is not served.main:
            return Found.NOTHING if served.plan.exists_is_ambiguous else Found.UNSEEN
        file = self.kernel.process.file(context.fd)
        assert isinstance(file, UffdFile)
        mm = file.context.mm
        if access.entry_at(mm, action.address)[0] is None:
            return Found.NOTHING
        if not action.compare:
            return Found.UNSEEN
        expected = b"" if action.kind == ZERO else self._source.page(action.page)
        found = access.load_now(mm, action.address, PAGE)
        if found is None:
            return Found.UNSEEN
        return Found.SAME if found == expected.ljust(PAGE, b"\0") else Found.OTHER
