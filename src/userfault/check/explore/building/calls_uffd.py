"""The calls of a task on a userfaultfd."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from userfault.check.explore.building.calls import Calls, Descriptor
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.uffd import messages, operations
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.model.uffd.registration import register, unregister
from userfault.uapi import userfaultfd as abi

_EVENTS = {
    abi.UFFD_EVENT_PAGEFAULT: "PAGEFAULT",
    abi.UFFD_EVENT_FORK: "FORK",
    abi.UFFD_EVENT_REMAP: "REMAP",
    abi.UFFD_EVENT_REMOVE: "REMOVE",
    abi.UFFD_EVENT_UNMAP: "UNMAP",
}


class Message:
    """A message of a userfaultfd: `event` (PAGEFAULT, FORK, ...) and its numbers."""

    __slots__ = ("event", "flags", "fork", "numbers")

    def __init__(
        self, event: str, flags: int, numbers: tuple[int, ...], fork: Descriptor | None
    ) -> None:
        self.event = event
        self.flags = flags
        self.numbers = numbers
        self.fork = fork

    @property
    def address(self) -> int:
        """Of a PAGEFAULT, or where the range of an event begins."""
        return self.numbers[0]

    def __repr__(self) -> str:
        numbers = ", ".join(hex(number) for number in self.numbers)
        return f"{self.event}({numbers})"


class UffdCalls(Calls):
    """UFFDIO_* and read(2)."""

    def copy(
        self,
        uffd: Descriptor,
        dst: int,
        src: int | bytes,
        length: int = PAGE,
        *,
        wake: bool = True,
        wp: bool = False,
    ) -> Any:
        """UFFDIO_COPY: bytes done.

        `src`: an address of the caller, or bytes, which never fault (zeros follow them).
        """
        mode = _mode(wake=wake, wp=wp)
        mm = self.task.process.mm

        def run(context: Context) -> operations.Done:
            return operations.copy(self.task, mm, context, dst, src, length, mode)

        return self._fill(uffd, abi.UFFDIO_COPY, run, dst, mode)

    def zeropage(
        self, uffd: Descriptor, start: int, length: int = PAGE, *, wake: bool = True
    ) -> Any:
        """UFFDIO_ZEROPAGE: bytes done."""
        mode = _mode(wake=wake)
        return self._plain(uffd, abi.UFFDIO_ZEROPAGE, operations.zeropage, start, length, mode)

    def continue_(
        self,
        uffd: Descriptor,
        start: int,
        length: int = PAGE,
        *,
        wake: bool = True,
        wp: bool = False,
    ) -> Any:
        """UFFDIO_CONTINUE: bytes done."""
        mode = _mode(wake=wake, wp=wp)
        return self._plain(uffd, abi.UFFDIO_CONTINUE, operations.continue_, start, length, mode)

    def poison(self, uffd: Descriptor, start: int, length: int = PAGE, *, wake: bool = True) -> Any:
        """UFFDIO_POISON: bytes done."""
        mode = _mode(wake=wake)
        return self._plain(uffd, abi.UFFDIO_POISON, operations.poison, start, length, mode)

    def move(
        self,
        uffd: Descriptor,
        dst: int,
        src: int,
        length: int = PAGE,
        *,
        wake: bool = True,
        holes: bool = False,
    ) -> Any:
        """UFFDIO_MOVE: bytes done."""
        mode = _mode(wake=wake) | (abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES if holes else 0)
        mm = self.task.process.mm

        def run(context: Context) -> operations.Done:
            return operations.move_pages(mm, context, dst, src, length, mode)

        return self._fill(uffd, abi.UFFDIO_MOVE, run, dst, mode)

    def _plain(
        self,
        uffd: Descriptor,
        request: int,
        fill: operations.Fill,
        start: int,
        length: int,
        mode: int,
    ) -> Any:
        def run(context: Context) -> operations.Done:
            return fill(self.task, context, start, length, mode)

        return self._fill(uffd, request, run, start, mode)

    def _fill(
        self,
        uffd: Descriptor,
        request: int,
        run: Callable[[Context], operations.Done],
        start: int,
        mode: int,
    ) -> Any:
        def call() -> int:
            file = uffd.process.file(uffd.fd)
            context = uffd.context
            with uffd.process.using(file):
                operations.check_known(context, request)
                operations.check_quiet(context)
                result = run(context)
                operations.conclude(context, start, result, mode)
            return result[0]

        return self._call(call)

    def wake(self, uffd: Descriptor, start: int, length: int = PAGE) -> Any:
        """UFFDIO_WAKE."""
        return self._do(lambda: operations.wake(uffd.context, start, length))

    def writeprotect(
        self,
        uffd: Descriptor,
        start: int,
        length: int = PAGE,
        *,
        protect: bool = True,
        wake: bool = True,
    ) -> Any:
        """UFFDIO_WRITEPROTECT."""
        return self._protect(uffd, operations.writeprotect, start, length, protect, wake)

    def rwprotect(
        self,
        uffd: Descriptor,
        start: int,
        length: int = PAGE,
        *,
        protect: bool = True,
        wake: bool = True,
    ) -> Any:
        """UFFDIO_RWPROTECT (7.3)."""
        return self._protect(uffd, operations.rwprotect, start, length, protect, wake)

    def _protect(
        self,
        uffd: Descriptor,
        protect: operations.Protect,
        start: int,
        length: int,
        on: bool,
        wake: bool,
    ) -> Any:
        mode = abi.UFFDIO_WRITEPROTECT_MODE_WP if on else 0
        if not on and not wake:
            mode |= abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE

        def call() -> None:
            context = uffd.context
            operations.check_quiet(context)
            protect(context, start, length, mode)

        return self._do(call)

    def register(self, uffd: Descriptor, start: int, length: int, mode: int) -> Any:
        """UFFDIO_REGISTER: 0."""
        return self._do(lambda: _register(self, uffd, start, length, mode))

    def unregister(self, uffd: Descriptor, start: int, length: int) -> Any:
        """UFFDIO_UNREGISTER: 0."""
        return self._do(lambda: unregister(self.task, uffd.context, start, length))

    def message(self, uffd: Descriptor, *, wait: bool = True) -> Any:
        """read(2) of one message; without `wait` EAGAIN if there is none."""

        def call() -> Message:
            file = uffd.process.file(uffd.fd)
            assert isinstance(file, UffdFile)
            with uffd.process.using(file):
                if not wait and not file.context.readable():
                    raise Errno(errno.EAGAIN)
                data = messages.read(self.task, self.task.process, file, messages.SIZE)
            return self._parse(data)

        return self._call(call)

    def _parse(self, data: bytes) -> Message:
        event, body = data[0], data[8:]
        name = _EVENTS[event]
        if event == abi.UFFD_EVENT_PAGEFAULT:
            flags, address = abi.uffd_msg_pagefault.struct.unpack(data)[1:3]
            return Message(name, flags, (address,), None)
        if event == abi.UFFD_EVENT_FORK:
            fd = int.from_bytes(body[:4], "little")
            return Message(name, 0, (fd,), Descriptor(self.task.process, fd))
        count = 3 if event == abi.UFFD_EVENT_REMAP else 2
        numbers = tuple(int.from_bytes(body[8 * at : 8 * at + 8], "little") for at in range(count))
        return Message(name, 0, numbers, None)


def _mode(*, wake: bool, wp: bool = False) -> int:
    return (0 if wake else operations.DONTWAKE) | (abi.UFFDIO_COPY_MODE_WP if wp else 0)


def _register(me: Calls, uffd: Descriptor, start: int, length: int, mode: int) -> None:
    register(me.task, uffd.context, start, length, int(mode))
