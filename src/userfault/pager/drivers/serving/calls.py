"""What serving asks of the kernel and of the clock.  `drivers/model` has the same of the model."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Protocol

from userfault.linux.libc import Pinned, fallocate, madvise, mmap
from userfault.pager.core.actions import Found, Inspect
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.serving import witness
from userfault.uapi import mman


class Placed(Protocol):
    """Bytes at an address, as long as it is entered."""

    def __enter__(self) -> Placed: ...
    def __exit__(self, *exc: object) -> None: ...

    @property
    def address(self) -> int: ...


class Calls:
    """Those of the running Linux.

    `clock`: seconds on a clock that never goes back.  `ioctl`: the argument lies in the journal;
    raises OSError.  `readv`: where a read that never waits is not to be had (see `Intake`).
    `threads`: whether a thread may make them.
    """

    threads = True
    clock: Callable[[], float]
    ioctl: Callable[[int, int, memoryview], object]
    readv: Callable[[int, list[memoryview]], int]

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.ioctl = fcntl.ioctl
        self.readv = os.readv
        self._zeros = 0  # address of pages of zeros, for types without ZEROPAGE
        self._zeros_length = 0

    def read(self, fd: int, into: list[memoryview]) -> int:
        """A read that does not wait, whatever the client has made of the flags of the open file,
        which it has too, and whoever else has read the message."""
        return os.preadv(fd, into, -1, os.RWF_NOWAIT)

    def bell(self) -> int:
        """A descriptor that threads ring when they have read."""
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def hear(self, bell: int) -> None:
        """It has rung, or not."""
        try:  # noqa: SIM105  # a context manager takes 2 µs, and a fault waits
            os.eventfd_read(bell)
        except BlockingIOError:
            pass

    def close(self, fd: int) -> None:
        """Of a bell."""
        os.close(fd)

    def place(self, data: memoryview) -> Placed:
        """Where UFFDIO_COPY finds these bytes."""
        return Pinned(data)

    def look(self, context: Context, action: Inspect) -> Found:
        """What lies at the action's address."""
        return witness.look(context, action)

    def zeros(self, length: int) -> int:
        """The address of `length` zero bytes that cost no memory: pages never written.

        They are mapped beforehand: a COPY whose source is not would need a second huge page
        while it faults the source in (measured on 6.18 with 1 GiB pages).  Raises OSError.
        """
        if length > self._zeros_length:
            flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
            self._zeros = mmap(0, length, mman.PROT_READ, flags, -1, 0)
            with contextlib.suppress(OSError):  # before 5.14: the copy does it
                madvise(self._zeros, length, mman.MADV_POPULATE_READ)
            self._zeros_length = length
        return self._zeros

    def punch(self, served: Served, offset: int, length: int) -> None:
        """Take a range out of the file behind the memory; no event tells of it.  Raises OSError."""
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        fallocate(served.memory, mode, offset, length)

    def held(self, served: Served, offset: int, length: int) -> memoryview:
        """What the file behind the memory holds there.  Raises OSError."""
        held = memoryview(bytearray(length))
        if os.preadv(served.memory, [held], offset) < length:  # the client has cut the file
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return held
