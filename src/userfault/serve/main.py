"""The main programs of a daemon's family: its first process, and that of the next family."""

from __future__ import annotations

import errno
import os
import socket

import msgspec

from userfault.linux import pidfd
from userfault.linux.refused import CallRefusedError
from userfault.pager.drivers import program
from userfault.pager.drivers.record.records import ClientRecord, FamilyRecord, encode
from userfault.serve.daemon import serve

_PACKET = 200  # descriptors of one packet; SCM_MAX_FD is 253 (unix(7))
_BYTES = 1 << 16


class Part(msgspec.Struct):
    """A packet of what is handed over: bytes of the daemon's record, and descriptors to keep.

    The last one says so.
    """

    about: bytes
    last: bool


def main(channel: socket.socket) -> None:
    """`channel`: the socket to the process that starts the daemon."""
    program.main(channel, serve, _told)


def succeed(channel: socket.socket) -> None:
    """The main program of a family that takes over from another; `channel`: to its worker."""
    program.succeed(channel, serve)


def hand_over(channel: socket.socket, *, about: bytes, kept: list[int]) -> None:
    """The starting process's side: what `main` takes beside the first packet.

    It is sent before anybody reads: the socket must have room for it.  Raises OSError.
    """
    size = _BYTES // 4
    pieces = [about[at : at + size] for at in range(0, len(about), size)] or [b""]
    packets = max(len(pieces), -(-len(kept) // _PACKET))
    for number in range(packets):
        piece = pieces[number] if number < len(pieces) else b""
        fds = kept[number * _PACKET : (number + 1) * _PACKET]
        part = msgspec.msgpack.encode(Part(piece, number == packets - 1))
        socket.send_fds(channel, [part], fds)


def _told(channel: socket.socket, record: FamilyRecord) -> None:
    """What is to be done, and with which descriptors."""
    last = False
    fds: list[int]
    while not last:
        data, fds, lost, _ = pidfd.receive(channel, _BYTES, _PACKET)
        if lost:
            raise CallRefusedError("recvmsg", errno.EMFILE)
        part = msgspec.msgpack.decode(data, type=Part)
        record.about += part.about
        record.kept = [*record.kept, *fds]
        last = part.last
    # The first is the line to whoever started us: a client of the control protocol.
    line, *record.kept = record.kept
    first = msgspec.msgpack.decode(record.clients[0], type=ClientRecord)
    record.people += 1
    control = ClientRecord(
        record.people, os.dup(first.process), line, "control: ", protocol="control"
    )
    record.clients = [*record.clients, msgspec.Raw(encode(control))]
