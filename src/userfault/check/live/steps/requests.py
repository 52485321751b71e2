"""What the steps of calls are put together of: the requests that recur, and their results."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import TypeAlias

from userfault.check.live import syscalls as nr
from userfault.check.live.wire import BUFFER, Op, Reply, Step
from userfault.kernel.calls import Result

Steps: TypeAlias = "Generator[Step, Reply, Result]"


class Place:
    """What steps must know of the process they run in."""

    def __init__(
        self, pid: int, directory: str, callback: Callable[[], bytes], memfds: str = ""
    ) -> None:
        self.pid = pid
        self.directory = directory  # of ordinary files
        self.callback = callback  # the socket address that a forked child connects to
        self.memfds = memfds  # a directory whose files stand for those of memfd_create(2)


def system_call(
    number: int,
    *args: int,
    payload: bytes = b"",
    buffered: tuple[int, ...] = (),
    answer: int = 0,
    control: bool = False,
) -> Step:
    """A system call; what the keywords mean is said at `Step`."""
    return Step(Op.SYSCALL, number, args, payload, buffered, answer, control)


def open_path(path: str, flags: int, *, control: bool = False) -> Step:
    """open(2)."""
    name = path.encode() + b"\0"
    return system_call(nr.OPEN, 0, flags, 0o600, payload=name, buffered=(0,), control=control)


def close(fd: int, *, control: bool = False) -> Step:
    """close(2)."""
    return system_call(nr.CLOSE, fd, control=control)


def write(fd: int, data: bytes, *, control: bool = False) -> Step:
    """write(2)."""
    return system_call(nr.WRITE, fd, 0, len(data), payload=data, buffered=(1,), control=control)


def file(path: str, offset: int = 0, length: int = 0) -> Step:
    """Read a file (length 0: all of it) without taking a descriptor of the program."""
    return Step(Op.FILE, args=(offset, length), payload=path.encode() + b"\0", control=True)


IOVEC = struct.Struct("=QQ")


def buffer_address() -> Step:
    """For a struct that itself holds addresses of the private buffer."""
    return Step(Op.BUFFER)


def result(reply: Reply, data: bytes = b"") -> Result:
    """The Result of a system call: its value or its errno."""
    if reply.errno:
        return Result(errno=reply.errno)
    return Result(reply.value, data=data)


def one(step: Step) -> Steps:
    """A call that is this step, and tells no more than its value."""
    return result((yield step))


def read_buffer(number: int, fd: int, length: int, *rest: int) -> Steps:
    """A call that reads into the private buffer; its value is how much."""
    reply = yield system_call(
        number, fd, 0, length, *rest, buffered=(1,), answer=min(length, BUFFER)
    )
    return result(reply, reply.data[: max(reply.value, 0)])
