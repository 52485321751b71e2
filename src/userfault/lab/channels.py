"""The frames that the host and a guest's multiplexer exchange; inside/mux.c declares the same.

A channel looks like the socket of one agent.  Nothing here waits, but for `wait`.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
from collections import deque

from userfault.check.link import Buffered

FRAME = struct.Struct("=IHH")  # bytes that follow, channel, kind
VALUE = struct.Struct("=i")
_CHUNK = 1 << 18
_PIECE = 1 << 20  # of the data of one frame


class Kind(enum.IntEnum):
    """What a frame is.  PING comes back; CALLED announces the channel of a forked child."""

    SPAWN = 0
    DATA = 1
    CLOSE = 2
    RESET = 3
    PING = 4
    CALLED = 5


class Channel:
    """One agent in the guest, with the methods of a socket that a Link uses."""

    def __init__(self, port: Port, number: int) -> None:
        self.number = number
        self.received = bytearray()
        self.pid = 0
        self.hung_up = False
        self.status: int | None = None  # as waitpid(2) has it, where it is known
        self._port = port

    def setblocking(self, _flag: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return self._port.fileno()

    def send(self, data: bytearray) -> int:
        if self.hung_up or self._port.closed:
            raise BrokenPipeError
        piece = bytes(data[:_PIECE])
        self._port.send(Kind.DATA, self.number, piece)
        return len(piece)

    def recv(self, length: int) -> bytes:
        if self.received:
            data = bytes(self.received[:length])
            del self.received[:length]
            return data
        if self.hung_up or self._port.closed:
            return b""
        raise BlockingIOError

    def close(self) -> None:
        """The agent sees the end of its socket, and ends."""
        if not self.hung_up and not self._port.closed:
            self.hung_up = True
            self._port.send(Kind.CLOSE, self.number)


class Port(Buffered):
    """Our end of a guest's port: frames out and in."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, _CHUNK)
        self.pings = 0  # that have come
        self.channels: dict[int, Channel] = {}
        self.called: deque[Channel] = deque()

    def channel(self, number: int) -> Channel:
        """A channel of our own; its agent is under way."""
        self.channels[number] = Channel(self, number)
        self.send(Kind.SPAWN, number)
        return self.channels[number]

    def send(self, kind: Kind, number: int = 0, data: bytes = b"") -> None:
        """Queue a frame, and send what the socket takes."""
        self.queue(FRAME.pack(len(data), number, kind) + data)

    def receive(self) -> bool:
        """Give what has arrived to its channels; True if there was anything."""
        anything = self.collect()
        self._take_apart()
        return anything

    def _take_apart(self) -> None:
        done = 0
        while len(self._received) - done >= FRAME.size:
            length, number, kind = FRAME.unpack_from(self._received, done)
            begin = done + FRAME.size
            if len(self._received) < begin + length:
                break
            self._take(Kind(kind), number, bytes(self._received[begin : begin + length]))
            done = begin + length
        del self._received[:done]

    def _take(self, kind: Kind, number: int, data: bytes) -> None:
        if kind is Kind.PING:
            self.pings += 1
            return
        if kind is Kind.CALLED:
            channel = self.channels[number] = Channel(self, number)
            channel.pid = VALUE.unpack(data)[0]
            self.called.append(channel)
            return
        known = self.channels.get(number)
        if known is None:  # of a program that is over
            return
        if kind is Kind.DATA:
            known.received += data
        elif kind is Kind.SPAWN:
            known.pid = VALUE.unpack(data)[0]
        elif kind is Kind.CLOSE:
            status = VALUE.unpack(data)[0]
            known.status = None if status < 0 else status
            known.hung_up = True

    def wait(self, timeout_s: float) -> bool:
        """Wait until something comes, or the socket takes more; False if neither did."""
        if self.closed:
            return False
        writers = [self] if self.backlog else []
        readable, writable, _ = select.select([self], writers, [], max(timeout_s, 0))
        if writable:
            self.flush()
        return bool(readable or writable)
