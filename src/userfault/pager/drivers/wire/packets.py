"""Packets on a socket of type SEQPACKET: a serial number and a message, whatever its size.

A message that is large goes into a memfd, which comes as the packet's last descriptor: no message
is too long for its receiver's buffer, nor for the sender's.  Of each packet the kernel tells who
sent it, if the receiving socket has SO_PASSCRED (unix(7)).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence

import msgspec

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.linux.pidfd import Sender, close_all

SMALL = 1 << 14  # bytes of a message that goes in its packet: far below the least SO_SNDBUF in use
MAX_MESSAGE = 1 << 24
MAX_DESCRIPTORS = 16
VERSIONS = "use client and pager of one version"  # the cure for what makes no sense

_HEADER = struct.Struct("=QQ")  # serial; length of the message if it is in the last descriptor


class Packet(msgspec.Struct):
    """What was received.  `ended`: nothing more will be, the other side has closed its end.

    `fault`: why the message cannot be had, with its cure; then there are no descriptors either.
    """

    serial: int
    data: bytes
    fds: list[int]
    sender: Sender | None
    fault: tuple[str, str] | None = None
    ended: bool = False


def send(
    channel: socket.socket,
    serial: int,
    data: bytes,
    fds: Sequence[int] = (),
    *,
    flags: int = 0,
    sender: Sender | None = None,
) -> None:
    """Send one message with its descriptors.  `sender`: what this process says of itself.

    Raises OSError of the socket, and PagerError for a message that is too large or has no memory.
    """
    control = [] if sender is None else [sender.ancillary]
    if len(data) <= SMALL:
        try:
            _send(channel, [_HEADER.pack(serial, 0), data], control, fds, flags)
            return
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # SO_SNDBUF may be as small as 4608 bytes
                raise
    large = _memory_with(data)
    try:
        _send(channel, [_HEADER.pack(serial, len(data))], control, [*fds, large], flags)
    finally:
        os.close(large)


def _send(
    channel: socket.socket,
    parts: list[bytes],
    control: list[tuple[int, int, bytes]],
    fds: Sequence[int],
    flags: int,
) -> None:
    if fds:
        passed = array.array("i", fds).tobytes()
        control = [*control, (socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
    channel.sendmsg(parts, control, flags)


def receive(channel: socket.socket) -> Packet:
    """The next packet.  Raises OSError of the socket."""
    data, fds, lost, sender = pidfd.receive(channel, _HEADER.size + SMALL, MAX_DESCRIPTORS + 1)
    serial = 0
    try:
        if not data and sender is None:  # a packet without a byte has a sender, where it counts
            return Packet(0, b"", [], None, ended=True)
        if len(data) < _HEADER.size:
            raise _FaultyError("it is shorter than its header", VERSIONS)
        serial, length = _HEADER.unpack_from(data)
        if lost:
            raise _FaultyError(
                "it has no descriptor left but those that a takeover may need",
                "raise `ulimit -n`, or use another Pager()",
            )
        if length:
            return Packet(serial, _large(fds, length), fds, sender)
        return Packet(serial, data[_HEADER.size :], fds, sender)
    except _FaultyError as error:
        close_all(fds)
        return Packet(serial, b"", [], sender, error.fault)


class _FaultyError(Exception):
    """The message cannot be had: cause and cure."""

    def __init__(self, *fault: str) -> None:
        super().__init__(*fault)
        self.fault = fault[0], fault[1]


def _large(fds: list[int], length: int) -> bytes:
    """The message in the last of `fds`, which is closed and taken out."""
    if not fds or length > MAX_MESSAGE:
        raise _FaultyError(f"a message of {length} bytes is not there", VERSIONS)
    fd = fds.pop()
    try:
        whole = os.pread(fd, length, 0)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise _FaultyError(f"a large message cannot be read: {why}", VERSIONS) from None
    finally:
        os.close(fd)
    if len(whole) < length:
        raise _FaultyError("a large message is not whole", VERSIONS)
    return whole


def _memory_with(data: bytes) -> int:
    """A memfd that holds `data`."""
    if len(data) > MAX_MESSAGE:
        raise PagerError(
            "a message between client and pager is too large",
            cause=f"it has {len(data)} bytes, {MAX_MESSAGE} are the most",
            cure="pass large arguments by file, and keep sys.path short",
        )
    try:
        fd = os.memfd_create("userfault-message", os.MFD_CLOEXEC)
    except OSError as error:
        raise _no_memory(error) from None
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(fd, memoryview(data)[written:], written)
    except OSError as error:
        os.close(fd)
        raise _no_memory(error) from None
    return fd


def _no_memory(error: OSError) -> PagerError:
    return PagerError(
        "a large message between client and pager cannot be put into memory",
        cause=os.strerror(error.errno or 0),
        cure="free memory, or raise `ulimit -n` or `ulimit -f`",
    )
