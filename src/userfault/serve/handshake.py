"""The first message of a client, looked at without being taken.

A worker may be killed in the middle of it.  What a worker has received is lost with it; what lies
in the socket is not.  So the message is peeked at (recv(2), MSG_PEEK; SO_PEEK_OFF, socket(7)) until
it is whole, its meaning recorded, and only then is it taken out: a successor finds a client that is
served, or a socket with the message from its first byte on.

Descriptors come along with each peek, new ones each time.
"""

from __future__ import annotations

import array
import errno
import socket

import msgspec

from userfault.linux.pidfd import close_all

_PEEK_OFF = 42  # SO_PEEK_OFF of asm-generic/socket.h
_PIECE = 1 << 16
_MOST = 16  # descriptors of one message; more are cut off, which is told
_FD = array.array("i")


class Peeked(msgspec.Struct):
    """Bytes that are in the socket, behind those seen before, and their descriptors.  `lost`: some
    did not fit.  `ended`: nothing more will come."""

    data: bytes
    fds: list[int]
    lost: bool = False
    ended: bool = False


def begin(channel: socket.socket) -> None:
    """From the first byte on."""
    channel.setblocking(False)
    channel.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, 0)


def peek(channel: socket.socket) -> Peeked | None:
    """What came since the last look; None where nothing did.  Raises OSError of the socket."""
    room = socket.CMSG_SPACE(_MOST * _FD.itemsize)
    flags = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    try:
        data, control, told, _ = channel.recvmsg(_PIECE, room, flags)
    except BlockingIOError:
        return None
    except ConnectionResetError:  # it has gone with something of ours unread
        return Peeked(b"", [], ended=True)
    found = array.array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) // _FD.itemsize * _FD.itemsize])
    return Peeked(data, list(found), bool(told & socket.MSG_CTRUNC), ended=not data)


def drain(channel: socket.socket) -> int:
    """Take out whatever is there: how many bytes.  -1: the other side has closed its end."""
    channel.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, -1)
    taken = 0
    room = socket.CMSG_SPACE(_MOST * _FD.itemsize)
    while taken < 1 << 20:
        try:
            data, control, *_ = channel.recvmsg(
                _PIECE, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return taken
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.EPIPE):
                return -1
            raise
        for _, kind, content in control:
            if kind == socket.SCM_RIGHTS:
                came = array.array("i")
                came.frombytes(content[: len(content) // _FD.itemsize * _FD.itemsize])
                close_all(list(came))
        if not data:
            return -1
        taken += len(data)
    return taken
