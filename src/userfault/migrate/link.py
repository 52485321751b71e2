"""A connection between the two sides: frames, each sent whole, and a silence that is noticed.

TCP itself takes many seconds to notice that nothing arrives, and as many again to try anew once the
network is back.  So each side says at least every half second that it is there, takes two seconds
of silence for the end, and the sender dials again and again with little patience for each try.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

from userfault.kernel.errors import UserfaultError
from userfault.linux.refused import cause_of
from userfault.migrate.frames import HEAD, Kind, head, read_head, unexpected
from userfault.serve.page_server.stream import ConnectionLostError, Stream
from userfault.serve.page_server.tls import secured
from userfault.serve.peers import RefusedError

PATIENCE_S = 60.0  # how long the other side may be away before it is given up
SAY_S = 0.5  # a side that has nothing to say says so
QUIET_S = 2.0  # and is taken for gone
HANDSHAKE_S = 5.0  # TLS takes several times the delay of the network
DIAL_S = 0.5  # less than TCP waits before it tries again, which it does ever more seldom
_FRAME_S = 20.0  # for one frame, over a slow network; a silence ends it before
# What waits in the kernel stands before the page that somebody asks for.
_WAITING = 256 << 10
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h
_SIGNED = (
    "both sides need certificates that the other side's --tls-cacert has signed, the receiver's"
    " with its address in it"
)

LOST = (ConnectionLostError, OSError)


class Link:
    """Frames over one connection.  Any thread may send; one receives."""

    def __init__(self, channel: socket.socket) -> None:
        self._stream = Stream(channel, _FRAME_S)
        self._sending = threading.Lock()
        self._said = time.monotonic()

    def send(self, kind: Kind, *pieces: bytes | bytearray | memoryview) -> None:
        """A frame.  Raises ConnectionLostError."""
        with self._sending:
            self._stream.send(head(kind, sum(map(len, pieces))), *pieces)
            self._said = time.monotonic()

    def say_alive(self) -> None:
        """If nothing was said for a while.  Raises ConnectionLostError."""
        if time.monotonic() - self._said >= SAY_S and self._sending.acquire(blocking=False):
            try:
                self._stream.send(head(Kind.ALIVE, 0))
                self._said = time.monotonic()
            finally:
                self._sending.release()

    def greet(self) -> None:
        """The receiver's first word; its certificate is good, and so is the sender's to it."""
        with self._sending:
            self._stream.send(head(Kind.ALIVE, 0))

    def greeted(self) -> None:
        """Wait for that.

        The sender says nothing before: with TLS 1.3 its certificate is looked at when for the
        sender all is settled, and what it had sent by then would have the kernel drop the reason.
        Raises RefusedError where it is not good, ConnectionLostError, BadMessageError.
        """
        try:
            if not self._stream.wait(HANDSHAKE_S):
                raise ConnectionLostError("the connection is lost", cause="nobody says anything")
            read_head(self._stream.exactly(HEAD.size))
        except ConnectionLostError as error:
            if "ALERT" not in error.cause:
                raise
            raise RefusedError(
                "the receiver does not take our certificate", cause=error.cause, cure=_SIGNED
            ) from None

    def receive(self, patience_s: float | None = None) -> tuple[Kind, bytearray]:
        """The next frame that says something; while there is none this side says that it is alive.

        `patience_s`: for how long the other side may be silent.  Raises ConnectionLostError,
        BadMessageError.
        """
        patience = QUIET_S if patience_s is None else patience_s
        while True:
            self.say_alive()
            deadline = time.monotonic() + patience
            while not self._stream.wait(min(SAY_S / 2, max(deadline - time.monotonic(), 0.001))):
                self.say_alive()
                if time.monotonic() >= deadline:
                    raise ConnectionLostError(
                        "the connection is lost",
                        cause=f"the other side has said nothing for {patience:g} s",
                        cure="see whether it runs, and the network between",
                    )
            kind, length = read_head(self._stream.exactly(HEAD.size))
            data = bytearray(length)
            self._stream.into(memoryview(data))
            if kind is not Kind.ALIVE:
                return kind, data

    def expect(self, kind: Kind, patience_s: float | None = None) -> bytearray:
        """The next frame, of this kind.  Raises BadMessageError for another."""
        found, data = self.receive(patience_s)
        if found is not kind:
            raise unexpected(found)
        return data

    def interrupt(self) -> None:
        """End it, from any thread: who sends or receives gets ConnectionLostError."""
        self._stream.interrupt()

    def close(self) -> None:
        """Let go of the socket."""
        self._stream.interrupt()
        self._stream.close()


def dial(host: str, port: int, context: ssl.SSLContext | None, timeout_s: float = DIAL_S) -> Link:
    """A new connection.  Raises ConnectionLostError where nobody answers, RefusedError where a side
    is not who it has to be."""
    try:
        channel = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        raise ConnectionLostError(
            f"cannot connect to {host}:{port}",
            cause=error.strerror or str(error) or cause_of(error),
            cure="start `userfault receive` there first, on an address that is reached from here",
        ) from None
    return over(channel, context, host)


def over(channel: socket.socket, context: ssl.SSLContext | None, name: str | None = None) -> Link:
    """A link over a connected socket, which is its from now on.  `name`: of the receiver, for the
    sender.  Raises RefusedError where there is no TLS, ConnectionLostError."""
    try:
        with contextlib.suppress(OSError):  # a socket of another family has none of these
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _WAITING)
        if context is not None:
            channel = secured(context, channel, HANDSHAKE_S, name)
    except RefusedError as error:
        channel.close()
        raise RefusedError(
            "the other side has no certificate that is good here, or speaks no TLS",
            cause=error.cause,
            cure=_SIGNED,
        ) from None
    except BaseException:
        channel.close()
        raise
    return Link(channel)


def told(error: Exception) -> str:
    """Why a connection is no more, in one line."""
    if isinstance(error, RefusedError):
        return f"{error.what}: {error.cause}"
    if isinstance(error, UserfaultError):
        return error.cause or error.what
    return str(error)
