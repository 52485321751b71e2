"""One agent process at the other end of a socket: requests out, replies in, never blocking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from userfault.check.live import wire

_CHUNK = 1 << 20


class Stream(Protocol):
    """What a link needs of a socket (of a channel that is like one)."""

    def setblocking(self, flag: bool, /) -> None:
        """It is called with False: from then on nothing waits."""

    def fileno(self) -> int:
        """For select(2)."""

    def send(self, data: bytearray, /) -> int:
        """How much it took; raises BlockingIOError, or another OSError once nobody reads."""

    def recv(self, length: int, /) -> bytes:
        """What has arrived, b"" at the end; raises BlockingIOError, or another OSError."""

    def close(self) -> None:
        """Hang up."""


class Buffered:
    """A stream that nobody waits for: what goes out is queued, what has come in is collected.

    `closed` once the other end is gone.  At most `chunk` bytes are received at once.
    """

    def __init__(self, connection: Stream, chunk: int = _CHUNK) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._chunk = chunk
        self._received = bytearray()
        self._unsent = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    @property
    def backlog(self) -> bool:
        """True while something waits for room in the stream."""
        return bool(self._unsent)

    def queue(self, data: bytes) -> None:
        """Send as much as the stream takes, and the rest later."""
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        try:
            while self._unsent and not self.closed:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()

    def collect(self) -> bool:
        """Take in what has arrived; True if there was anything, its end included."""
        anything = False
        try:
            while not self.closed:
                chunk = self._socket.recv(self._chunk)
                anything = True
                if not chunk:
                    self._hang_up()
                self._received += chunk
                if len(chunk) < self._chunk:  # that was all there is
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            anything = True
        return anything

    def _hang_up(self) -> None:
        self.closed = True
        self._unsent.clear()


class Link(Buffered):
    """The socket of one agent.  `closed` once the agent is gone."""

    def send(self, *requests: bytes) -> None:
        """Queue requests, and send as much as the socket takes, all at once if it can."""
        self.queue(b"".join(requests))

    def replies(self) -> Iterator[wire.Reply]:
        """The replies that have arrived whole."""
        self.collect()
        head_size = wire.REPLY.size
        while len(self._received) >= head_size:
            head = wire.REPLY.unpack_from(self._received)
            end = head_size + head[0]
            if len(self._received) < end:
                return
            data = bytes(self._received[head_size:end])
            del self._received[:end]
            yield wire.decode(head, data)

    def close(self) -> None:
        """Close the socket: the agent ends when it sees that."""
        self.closed = True
        self._socket.close()
