"""Descriptors of processes, and descriptors sent between processes.

A pidfd names one process for ever (pidfd_open(2), 5.3): it polls readable when the process has
ended, and a signal sent by it cannot hit a successor of the same number.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import struct
from typing import NamedTuple

_FD = array.array("i")
_CREDENTIALS = struct.Struct("=iII")  # struct ucred (unix(7)): process, user, group


class Sender(NamedTuple):
    """Who sent a packet, as the kernel vouches (unix(7), SCM_CREDENTIALS): process id (0: in
    another pid namespace), and a user and group that the sender had, or could go back to; the real
    ones if it said nothing."""

    pid: int
    uid: int
    gid: int

    @property
    def ancillary(self) -> tuple[int, int, bytes]:
        """As control data of sendmsg: the kernel refuses what is not true."""
        return socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.pack(*self)


class Received(NamedTuple):
    """A packet: its bytes and descriptors, whether some of either were lost, and its sender (None
    unless the socket has SO_PASSCRED)."""

    data: bytes
    fds: list[int]
    lost: bool
    sender: Sender | None


def ended(pidfd: int) -> bool:
    """Whether the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def wait(pidfd: int, timeout_s: float) -> bool:
    """Wait for the process to end; False when it still runs after `timeout_s` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def kill(pidfd: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that has ended already is no error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def pid_of(pidfd: int, whose: int | str = "self") -> int:
    """The process id behind a pidfd, of ours or of process `whose`, as seen here; -1 once it was
    reaped, 0 if not to be seen."""
    with (
        contextlib.suppress(OSError),  # no /proc, or no descriptor left
        open(f"/proc/{whose}/fdinfo/{pidfd}", encoding="ascii") as file,
    ):
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0


def peer(channel: socket.socket) -> int:
    """The process that made the connection, by the id that its packets have here (SO_PEERCRED,
    unix(7)): 0 where it is in a pid namespace that is not to be seen from ours."""
    return made_by(channel).pid


def made_by(channel: socket.socket) -> Sender:
    """The process that made the connection, with its effective user and group at that time."""
    told = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Sender(*_CREDENTIALS.unpack(told))


def receive(channel: socket.socket, size: int, most: int, *, flags: int = 0) -> Received:
    """A packet of at most `size` bytes with at most `most` descriptors.

    `socket.recv_fds` ignores its flags (CPython 3.11): what it receives would be passed on to every
    program that this process starts.
    """
    room = socket.CMSG_SPACE(most * _FD.itemsize) + socket.CMSG_SPACE(_CREDENTIALS.size)
    data, control, told, _ = channel.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    sender = None
    for level, kind, content in control:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) // _FD.itemsize * _FD.itemsize])
        elif kind == socket.SCM_CREDENTIALS and len(content) == _CREDENTIALS.size:
            sender = Sender(*_CREDENTIALS.unpack(content))
    lost = bool(told & (socket.MSG_CTRUNC | socket.MSG_TRUNC))
    return Received(data, list(found), lost, sender)


def close_all(descriptors: list[int]) -> None:
    """Close each descriptor of the list that is one."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)
