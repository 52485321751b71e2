"""The client's side of a pager's start: one process is made, and waited for until it serves.

What can go wrong is told in one error: a program that is no Python says nothing, a Python that
lacks something ends and its last line says why, and a family that cannot come up sends the cause.
Until it serves, what it writes to standard error goes to a memfd; after that to the client's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from userfault.api import ahead
from userfault.api.undisturbed import unwanted
from userfault.kernel.errors import PagerError
from userfault.linux.refused import calling, cause_of, cure_of
from userfault.linux.unpatched import original, packet_sockets
from userfault.pager.drivers.processes.lean import SIGN, lean_path
from userfault.pager.drivers.processes.naming import VARIABLE
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.record.status import Status
from userfault.pager.drivers.wire import messages, packets

_SIGN_S = 10.0  # until the first sign of life: an interpreter gives it in 20 ms
_UP_S = 30.0  # and until it serves, after that
_LOOK_S = 0.2  # whether somebody still waits for it
_LINE = 300  # characters of what it said last


class Family(msgspec.Struct):
    """A pager's processes as the client holds them.

    `first`: process id and pidfd of the one that was started, our only child among them.
    `rights`: user and group that they run as.
    """

    channel: socket.socket
    status: Status
    first: tuple[int, int]
    owner: int
    rights: tuple[int, int]


def start(
    hello: messages.Hello,
    python: str | None,
    more: Callable[[socket.socket], None] | None = None,
    meanwhile: Callable[[], object] | None = None,
    loads: Sequence[str] = (),
) -> Family:
    """Start the first process, which makes the others; back when they serve.

    `more`: sends what the program of `hello` takes beside the first packet.  `meanwhile`: called
    while they come up; if it raises, they are ended.  `loads`: modules that it will need soon.
    Raises PagerError, UsageError for `python`, and what `meanwhile` does.
    """
    with contextlib.ExitStack() as undo:
        try:
            family = _start(undo, hello, python, more, meanwhile, loads)
        except OSError as error:
            if not error.errno:  # of no system call: it is `meanwhile`'s
                raise
            raise PagerError(
                "cannot start a pager", cause=cause_of(error), cure=cure_of(error)
            ) from None
        undo.pop_all()
        return family


def _start(
    undo: contextlib.ExitStack,
    hello: messages.Hello,
    python: str | None,
    more: Callable[[socket.socket], None] | None,
    meanwhile: Callable[[], object] | None,
    loads: Sequence[str],
) -> Family:
    mine = os.geteuid(), os.getegid()
    begun = ahead.take() if python is None and hello.program == messages.PROGRAM else None
    if begun is None:
        ours, pid, said = _begun(undo, hello.program, python, loads)
    else:
        ours, pid, said = _taken(undo, begun)
    with contextlib.ExitStack() as passing:
        passing.callback(os.close, said)
        with calling("pidfd_open"):
            process = os.pidfd_open(pid)
        undo.callback(os.close, process)
        status, shown = Status.create()
        undo.callback(status.close)
        passing.callback(os.close, shown)
        with calling("pidfd_open"):
            client = os.pidfd_open(os.getpid())
        passing.callback(os.close, client)
        fds = [client, shown, *_standard_error()]
        # One that has ended by now is told of below, with what it said.
        with calling("sendmsg"), contextlib.suppress(ConnectionError):
            socket.send_fds(ours, [msgspec.msgpack.encode(hello)], fds, socket.MSG_NOSIGNAL)
            if more is not None:
                more(ours)
        if meanwhile is not None:
            meanwhile()
        _until_up(ours, said)
    return Family(ours, status, (pid, process), os.getpid(), mine)


def _begun(
    undo: contextlib.ExitStack, program: str, python: str | None, loads: Sequence[str]
) -> tuple[socket.socket, int, int]:
    """Start it: the socket to it, its process id, and the memory for what it says, which the
    caller closes."""
    with calling("socketpair"):
        ours, theirs = packet_sockets()
    undo.callback(ours.close)
    with contextlib.closing(theirs), contextlib.ExitStack() as failed:
        with calling("setsockopt"):  # from here on the kernel tells who sends each request
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        said = _memory()
        failed.callback(os.close, said)
        pid = spawn_python(
            program, "main", theirs.fileno(), lean_path(),
            more=loads, stderr=said, python=python, sign=True,
        )  # fmt: skip
        undo.callback(_end, pid)
        failed.pop_all()
    return ours, pid, said


def _taken(undo: contextlib.ExitStack, begun: ahead.Ahead) -> tuple[socket.socket, int, int]:
    """The same of a process that was started before."""
    undo.callback(_end, begun.pid)
    known = socket.AF_UNIX, socket.SOCK_SEQPACKET, 0
    ours = socket.socket(*known, fileno=begun.channel.detach())
    undo.callback(ours.close)
    return ours, begun.pid, begun.said


def _memory() -> int:
    """Where the new process writes what it says; no number that a client may have closed."""
    with calling("memfd_create"):
        fd = os.memfd_create("userfault-said", os.MFD_CLOEXEC)
    try:
        with calling("fcntl(F_DUPFD_CLOEXEC)"):
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _standard_error() -> list[int]:
    """Ours, if there is one: number 2 of a client that closed it may be anything by now, but Python
    does not let what it opens itself be inherited."""
    with contextlib.suppress(OSError):
        return [2] if os.get_inheritable(2) else []
    return []


def _until_up(channel: socket.socket, said: int) -> None:
    """Wait until the new process serves; raises PagerError when it does not."""
    started = False
    deadline = time.monotonic() + _SIGN_S
    poll = original("select", "poll")()
    poll.register(channel, select.POLLIN)
    while True:
        if not poll.poll(_LOOK_S * 1000):
            if time.monotonic() > deadline or unwanted():
                raise _not_up(said, _late(started))
            continue
        with contextlib.suppress(ConnectionError):  # it ended with our greeting unread
            packet = packets.receive(channel)
            if packet.data == SIGN:
                started = True
                deadline = time.monotonic() + _UP_S
                continue
            if packet.data:
                reply = messages.decoded_reply(packet.data)
                if isinstance(reply, messages.Refused):
                    raise PagerError(reply.what, cause=reply.cause, cure=reply.cure)
                return
        raise _not_up(said, "the process that was started has ended")


def _late(started: bool) -> str:
    if started:
        return f"it did not come up within {_UP_S:.0f} s"
    return f"what was started has not answered within {_SIGN_S:.0f} s: it may be no Python"


def _not_up(said: int, cause: str) -> PagerError:
    """With the last line that it said, if any."""
    size = os.fstat(said).st_size
    lines = os.pread(said, 4096, max(size - 4096, 0)).decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    shown = "".join(char if char.isprintable() else "?" for char in last.strip()[-_LINE:])
    return PagerError(
        "cannot start a pager",
        cause=f"{cause}; it said: {shown}" if shown else cause,
        cure="check the limits on memory (ulimit -v), processes (-u) and descriptors (-n), and"
        f" that {VARIABLE}, if it is set, is a Python that has userfault installed",
    )


def _end(pid: int) -> None:
    """End what was started, with what it has started itself: its session is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
