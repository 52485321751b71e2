"""The ioctls of a userfaultfd at the level of the ABI: bytes in, bytes written back, errno.

Every command reads its argument without the answer field, checks, acts, and writes the answer:
in the kernel's order, so that what is written when a check fails is also the same.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.calls import CAP_SYS_PTRACE
from userfault.model.errors import Errno
from userfault.model.mm.access import copy_in, copy_out
from userfault.model.mm.address_space import AddressSpace
from userfault.model.tasks.sched import Task
from userfault.model.uffd import operations
from userfault.model.uffd.caller import Caller
from userfault.model.uffd.context import Context
from userfault.model.uffd.registration import register, unregister
from userfault.uapi import userfaultfd as abi


class Argument(Protocol):
    """The struct that an ioctl's third argument points to."""

    def read(self, length: int) -> bytes:
        """Its first bytes; EFAULT."""

    def write(self, offset: int, data: bytes) -> None:
        """Write back; EFAULT."""


class Buffer:
    """A struct in memory that never faults."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)

    def read(self, length: int) -> bytes:
        return bytes(self.data[:length].ljust(length, b"\0"))

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.data[offset:end] = data[: max(len(self.data) - offset, 0)]


class Pointer:
    """A struct at an address of the caller."""

    __slots__ = ("_address", "_mm", "_task")

    def __init__(self, task: Task, mm: AddressSpace, address: int) -> None:
        self._task = task
        self._mm = mm
        self._address = address

    def read(self, length: int) -> bytes:
        return copy_in(self._task, self._mm, self._address, length)

    def write(self, offset: int, data: bytes) -> None:
        copy_out(self._task, self._mm, self._address + offset, data)


_Command = Callable[[Task, Caller, Context, Argument], None]

_Q = struct.Struct("=Q").pack
_S = struct.Struct("=q").pack
_TWO = struct.Struct("=QQ").unpack
_THREE = struct.Struct("=QQQ").unpack
_FOUR = struct.Struct("=QQQQ").unpack


def ioctl(task: Task, caller: Caller, context: Context, request: int, argument: Argument) -> None:
    """One ioctl on a userfaultfd.  Raises Errno; an unknown one is EINVAL."""
    if request != abi.UFFDIO_API and not context.features:
        raise Errno(errno.EINVAL)
    command = _COMMANDS.get(request)
    if command is None:
        raise Errno(errno.EINVAL)
    operations.check_known(context, request)
    command(task, caller, context, argument)


def _api(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    api, features, _ = _THREE(argument.read(24))
    may_trace = caller.may(task, CAP_SYS_PTRACE)
    try:
        if "handshake-twice" in context.mm.config.bugs and context.has(-1):
            raise Errno(errno.EINVAL)  # asked once, and not when they are set
        offered, ioctls = context.handshake(api, features, may_trace=may_trace)
        argument.write(0, abi.uffdio_api.struct.pack(api, offered, ioctls))
        if task.sched.preemptive:
            task.sched.point("api.set")
        context.initialize(features)
    except Errno as refusal:
        if refusal.code != errno.EFAULT:
            argument.write(0, bytes(24))
        raise


def _register(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    del caller
    start, length, modes = _THREE(argument.read(24))
    ioctls = register(task, context, start, length, modes)
    argument.write(24, _Q(ioctls))


def _unregister(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    del caller
    unregister(task, context, *_TWO(argument.read(16)))


def _wake(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    del task, caller
    operations.wake(context, *_TWO(argument.read(16)))


def _gate(context: Context, argument: Argument, at: int) -> None:
    """EAGAIN while an event is pending; the result field says so first."""
    if context.is_changing and context.mm.profile.field_on_event:
        argument.write(at, _S(-errno.EAGAIN))
    operations.check_quiet(context)


def _finish(
    context: Context, argument: Argument, at: int, dst: int, result: operations.Done, mode: int
) -> None:
    """Write the result field, wake what was done, and say how it ended."""
    done, code = result
    argument.write(at, _S(done or -code))
    operations.conclude(context, dst, result, mode)


def _copy(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    _gate(context, argument, 32)
    dst, src, length, mode = _FOUR(argument.read(32))
    result = operations.copy(task, caller.mm, context, dst, src, length, mode)
    _finish(context, argument, 32, dst, result, mode)


def _filling(fill: operations.Fill) -> _Command:
    """ZEROPAGE, CONTINUE and POISON: one shape."""

    def command(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
        del caller
        _gate(context, argument, 24)
        start, length, mode = _THREE(argument.read(24))
        result = fill(task, context, start, length, mode)
        _finish(context, argument, 24, start, result, mode)

    return command


def _move(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    del task
    _gate(context, argument, 32)
    dst, src, length, mode = _FOUR(argument.read(32))
    result = operations.move_pages(caller.mm, context, dst, src, length, mode)
    _finish(context, argument, 32, dst, result, mode)


def _protecting(protect: operations.Protect) -> _Command:
    """WRITEPROTECT and RWPROTECT: one shape."""

    def command(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
        del task, caller
        operations.check_quiet(context)
        protect(context, *_THREE(argument.read(24)))

    return command


def _set_mode(task: Task, caller: Caller, context: Context, argument: Argument) -> None:
    del task, caller
    context.set_mode(*_TWO(argument.read(16)))


_COMMANDS: dict[int, _Command] = {
    abi.UFFDIO_API: _api,
    abi.UFFDIO_REGISTER: _register,
    abi.UFFDIO_UNREGISTER: _unregister,
    abi.UFFDIO_WAKE: _wake,
    abi.UFFDIO_COPY: _copy,
    abi.UFFDIO_ZEROPAGE: _filling(operations.zeropage),
    abi.UFFDIO_CONTINUE: _filling(operations.continue_),
    abi.UFFDIO_POISON: _filling(operations.poison),
    abi.UFFDIO_MOVE: _move,
    abi.UFFDIO_WRITEPROTECT: _protecting(operations.writeprotect),
    abi.UFFDIO_RWPROTECT: _protecting(operations.rwprotect),
    abi.UFFDIO_SET_MODE: _set_mode,
}
