"""The frames that the host and a guest's multiplexer exchange; inside/mux.c declares the same.

A channel looks like the socket of one agent.  Its bytes come in frames, or over a line: a port of
the agent's own (direct.py).  Nothing here waits, but for `wait`.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
from collections import deque
from collections.abc import Iterable

from userfault.check.live.link import Buffered
from userfault.lab.direct import Line

FRAME = struct.Struct("=IHH")  # bytes that follow, channel, kind
VALUE = struct.Struct("=i")
_CHUNK = 1 << 18
_PIECE = 1 << 20  # of the data of one frame


class Kind(enum.IntEnum):
    """What a frame is.

    PING comes back; CALLED announces the channel of a forked child; BUSY, before the SPAWN that
    comes back, says that the line asked for cannot be had.
    """

    SPAWN = 0
    DATA = 1
    CLOSE = 2
    RESET = 3
    PING = 4
    CALLED = 5
    BUSY = 6


class Channel:
    """One agent in the guest, with the methods of a socket that a Link uses."""

    def __init__(self, port: Port, number: int, line: Line | None = None) -> None:
        self.number = number
        self.received = bytearray()
        self.pid = 0
        self.hung_up = False
        self.status: int | None = None  # as waitpid(2) has it, where it is known
        self.line = line
        self._port = port

    def setblocking(self, _flag: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return (self.line or self._port).fileno()

    def send(self, data: bytearray) -> int:
        if self.hung_up or self._port.closed:
            raise BrokenPipeError
        if self.line is not None:
            return self.line.socket.send(data)
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
        if self.line is not None:
            return self.line.socket.recv(length)
        raise BlockingIOError

    def end(self, status: int | None) -> None:
        """The agent has ended; what it has said before is still to be read."""
        self.status = status
        if self.line is not None and not self.hung_up:
            self.received += self.line.rest()
        self.line = None  # it is the next agent's
        self.hung_up = True

    def close(self) -> None:
        """The agent sees the end of its socket, or is killed."""
        if not self.hung_up and not self._port.closed:
            self.hung_up = True
            self.line = None
            self._port.send(Kind.CLOSE, self.number)


class Port(Buffered):
    """Our end of a guest's port: frames out and in; and the lines next to it."""

    def __init__(self, connection: socket.socket, lines: Iterable[Line] = ()) -> None:
        super().__init__(connection, _CHUNK)
        self.pings = 0  # that have come
        self.channels: dict[int, Channel] = {}
        self.called: deque[Channel] = deque()
        # The one that is free for longest is the next: nobody holds it any more.
        self.free: deque[Line] = deque(lines)
        self.taken: dict[int, Line] = {}  # by channel, until its agent has ended

    def channel(self, number: int, *, direct: bool) -> Channel:
        """A channel of our own, over a line if one is free; its agent is under way."""
        line = self.free.popleft() if direct and self.free else None
        self.channels[number] = Channel(self, number, line)
        if line is not None:
            self.taken[number] = line
        self.send(Kind.SPAWN, number, b"" if line is None else line.ask())
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
        if kind in {Kind.CLOSE, Kind.BUSY} and number in self.taken:
            self.free.append(self.taken.pop(number))
        known = self.channels.get(number)
        if known is None:  # of a program that is over
            return
        if kind is Kind.DATA:
            known.received += data
        elif kind is Kind.SPAWN:
            known.pid = VALUE.unpack(data)[0]
        elif kind is Kind.CLOSE:
            status = VALUE.unpack(data)[0]
            known.end(None if status < 0 else status)
        elif kind is Kind.BUSY:
            known.line = None

    def wait(self, timeout_s: float, others: Iterable[Buffered] = ()) -> bool:
        """Wait until something comes here or to others, or a socket takes more; False if not."""
        if self.closed:
            return False
        readers = [self, *others]
        writers = [stream for stream in readers if stream.backlog]
        readable, writable, _ = select.select(readers, writers, [], max(timeout_s, 0))
        for stream in writable:
            stream.flush()
        return bool(readable or writable)
