"""A connection as a stream of bytes, with or without TLS: what comes late is an error."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from userfault.kernel.errors import UserfaultError
from userfault.linux.refused import cause_of

_T = TypeVar("_T")
_PIECE = 1 << 18  # bytes handed over at once


class ConnectionLostError(UserfaultError):
    """The connection ended, broke, or stood still for too long."""


class Stream:
    """`channel`: connected, and this object's.  `patience_s`: how long one message may take.

    One thread may read while another writes: a connection by TLS is one state for both (SSL(3) is
    not to be used by two threads at once), so nobody waits for the network within it.
    """

    def __init__(self, channel: socket.socket, patience_s: float) -> None:
        self._channel = channel
        self._patience_s = patience_s
        self._lock = threading.Lock()
        channel.setblocking(False)

    def fileno(self) -> int:
        """Of the socket."""
        return self._channel.fileno()

    def wait(self, seconds: float) -> bool:
        """Whether something comes, or the end does, within this time."""
        if isinstance(self._channel, ssl.SSLSocket) and self._channel.pending():
            return True
        return self._poll(select.POLLIN, seconds)

    def begun(self, size: int) -> bytes:
        """`size` bytes, or none where the other side has ended before the first of them.

        Raises ConnectionLostError for an end in the middle.
        """
        data = bytearray(size)
        done = self._fill(memoryview(data))
        if 0 < done < size:
            raise _ended()
        return bytes(data[:done])

    def exactly(self, size: int) -> bytes:
        """`size` bytes.  Raises ConnectionLostError."""
        data = bytearray(size)
        self.into(memoryview(data))
        return bytes(data)

    def into(self, target: memoryview) -> None:
        """Fill it.  Raises ConnectionLostError."""
        if self._fill(target) < len(target):
            raise _ended()

    def refused(self, seconds: float) -> str:
        """Why the other side, which is to say nothing, ends or complains; "" in so many seconds."""
        deadline = time.monotonic() + seconds
        try:
            while self.wait(deadline - time.monotonic()):
                if (data := self._now(self._channel.recv, 1)) is not None:  # else TLS's own
                    return "something else than TLS" if data else "it hangs up"
        except (OSError, ValueError) as error:
            return _broken(error).cause
        return ""

    def send(self, *pieces: bytes | bytearray | memoryview) -> None:
        """All of them, together.  Raises ConnectionLostError, also where nobody reads."""
        try:
            for piece in pieces:
                deadline = time.monotonic() + self._patience_s
                view, done = memoryview(piece), 0
                while done < len(view):
                    sent = self._now(self._channel.send, view[done : done + _PIECE])
                    done += sent or 0
                    if sent is None:
                        self._wait_until(deadline, select.POLLOUT)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _broken(error) from None

    def finish(self) -> None:
        """Nothing more is sent; wait until the other side has ended, too, as far as it does.

        Else what it has sent and nobody has read would have the kernel reset the connection, and
        the last answer be lost.
        """
        try:
            self._channel.settimeout(self._patience_s)
            if isinstance(self._channel, ssl.SSLSocket):
                self._channel = self._channel.unwrap()
            self._channel.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + self._patience_s
            while time.monotonic() < deadline and self._channel.recv(1 << 16):
                pass
        except (OSError, ValueError):
            return

    def interrupt(self) -> None:
        """End it, from another thread: whoever reads or writes gets ConnectionLostError."""
        try:
            socket.socket.shutdown(self._channel, socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Let go of the socket."""
        self._channel.close()

    def _fill(self, target: memoryview) -> int:
        done = 0
        deadline = time.monotonic() + self._patience_s
        try:
            while done < len(target):
                count = self._now(self._channel.recv_into, target[done:])
                if count is None:
                    self._wait_until(deadline, select.POLLIN)
                elif count:
                    done += count
                else:
                    break
        except (OSError, ValueError) as error:
            raise _broken(error) from None
        return done

    def _now(self, call: Callable[[Any], _T], argument: Any) -> _T | None:
        """What the call says; None where it would have to wait."""
        with self._lock:
            try:
                return call(argument)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None

    def _wait_until(self, deadline: float, event: int) -> None:
        """For a while.  Raises TimeoutError."""
        left = deadline - time.monotonic()
        if left <= 0 or not self._poll(event, left):
            raise TimeoutError

    def _poll(self, event: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._channel, event)
        return seconds > 0 and bool(poll.poll(seconds * 1000))


def _ended() -> ConnectionLostError:
    return ConnectionLostError(
        "the connection to the page server's peer is lost",
        cause="it ended in the middle of a message",
        cure="look at the peer's own log",
    )


def _broken(error: OSError | ValueError) -> ConnectionLostError:
    if isinstance(error, ssl.SSLError):
        cause = f"TLS: {error.reason or error}"
    elif isinstance(error, TimeoutError):
        cause = "nothing came, or went, for too long"
    else:
        cause = cause_of(error) if isinstance(error, OSError) else str(error)
    return ConnectionLostError(
        "the connection to the page server's peer is lost",
        cause=cause,
        cure="look at the peer's own log, and at the network between",
    )
