"""A proxy between the client and a real server, which breaks what goes through it.

It passes bytes of TCP connections on.  A fault is applied to the server's answers: late, slow, cut
off, reset, changed, replaced by an error, or no connection at all.  Which connections it hits is
counted, so that a test says "the first two answers are wrong" and means it.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

# A fault takes the answer as it came and the client's socket; it sends what it wants.
Fault = Callable[[bytes, socket.socket], None]

_ERROR = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def refused(_answer: bytes, client: socket.socket) -> None:
    """503 instead of the answer."""
    client.sendall(_ERROR)


def truncated(answer: bytes, client: socket.socket) -> None:
    """The first half, then the end of the connection."""
    client.sendall(answer[: len(answer) // 2])


def reset(answer: bytes, client: socket.socket) -> None:
    """The first half, then a reset."""
    client.sendall(answer[: len(answer) // 2])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wrong(answer: bytes, client: socket.socket) -> None:
    """One bit of the body is another."""
    changed = bytearray(answer)
    changed[-7] ^= 0x10
    client.sendall(changed)


def foreign(answer: bytes, client: socket.socket) -> None:
    """A right length, other bytes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n" + bytes(len(body)))


def nonsense(_answer: bytes, client: socket.socket) -> None:
    """No HTTP at all."""
    client.sendall(b"\x16\x03\x01 what?\r\n\r\n")


def slow(seconds: float) -> Fault:
    """The answer comes late."""

    def fault(answer: bytes, client: socket.socket) -> None:
        time.sleep(seconds)
        client.sendall(answer)

    return fault


def trickled(pieces: int, pause: float) -> Fault:
    """The answer comes in pieces with pauses."""

    def fault(answer: bytes, client: socket.socket) -> None:
        size = -(-len(answer) // pieces)
        for start in range(0, len(answer), size):
            client.sendall(answer[start : start + size])
            time.sleep(pause)

    return fault


def silent(seconds: float) -> Fault:
    """Half the answer, then nothing for a long time, or until the client gives up."""

    def fault(answer: bytes, client: socket.socket) -> None:
        client.sendall(answer[: len(answer) // 2])
        select.select([client], [], [], seconds)

    return fault


def hung(_answer: bytes, client: socket.socket) -> None:
    """Nothing, until the client gives up."""
    select.select([client], [], [])


class Proxy:
    """Passes connections to `server` on; `hit` says what happens to which answer.

    `answers`: how many it has had from the server; `requests`: how many bytes of requests came.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._lock = threading.Lock()
        self._faults: Iterator[Fault | None] = itertools.repeat(None)
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._gone = False
        self.answers = 0
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self._listener.getsockname()[1]
        return found

    def hit(self, *faults: Fault | None, always: Fault | None = None) -> None:
        """The next answers meet these faults, one each; all after them `always`."""
        with self._lock:
            self._faults = itertools.chain(faults, itertools.repeat(always))
            self.answers = 0

    def vanish(self) -> None:
        """Cut every connection; accept no other."""
        self._gone = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it all."""
        if not self._gone:
            self.vanish()
        self._accepting.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._pass, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server), timeout=30)
        except OSError:
            client.close()
            return
        client.settimeout(30)
        with self._lock:
            self._open |= {client, server}
        with contextlib.suppress(OSError), client, server:
            while not self._gone and self._one_exchange(client, server):
                pass
        with self._lock:
            self._open -= {client, server}

    def _one_exchange(self, client: socket.socket, server: socket.socket) -> bool:
        """A request through, and its answer; whether the connection goes on."""
        select.select([client], [], [])
        request = client.recv(1 << 16)
        if not request:
            return False
        server.sendall(request)
        with self._lock:
            fault = next(self._faults)
        if fault is None:
            return _through(client, server, self._count)
        answer = _whole_answer(server)
        self._count()
        fault(answer, client)
        return False

    def _count(self) -> None:
        with self._lock:
            self.answers += 1


def _through(client: socket.socket, server: socket.socket, count: Callable[[], None]) -> bool:
    """Pass on in both directions until the client begins its next request."""
    counted = False
    while True:
        ready, _, _ = select.select([client, server], [], [])
        if server in ready:
            data = server.recv(1 << 16)
            if not data:
                return False
            if not counted:
                counted = True
                count()
            client.sendall(data)
        elif counted:
            return True
        else:  # the request goes on
            data = client.recv(1 << 16)
            if not data:
                return False
            server.sendall(data)


def _whole_answer(server: socket.socket) -> bytes:
    """An answer with its body, by its Content-Length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = server.recv(1 << 16)
        if not more:
            return answer
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = server.recv(1 << 16)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body
