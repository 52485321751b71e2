"""A network between sender and receiver that can be cut: at a frame, or at once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from userfault.migrate.frames import HEAD, Kind

# Whether a frame goes on: True, False (it is swallowed, as all that follows on this connection),
# or None: the connection is reset before it.
Rule = Callable[[Kind, int], bool | None]


class Between:
    """Forwards connections to a receiver, frame by frame; `rule` is asked before each.

    `seen`: how often each kind has come.  `connections`: made so far.
    """

    def __init__(self, to: str, rule: Rule = lambda *_: True) -> None:
        host, port = to.split(":")
        self._to = host, int(port)
        self.rule = rule
        self.seen: dict[Kind, int] = {}
        self.connections = 0
        self.open = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        socket.socket.shutdown(self._listener, socket.SHUT_RDWR)
        self._listener.close()
        self.break_off()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Between:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def break_off(self) -> None:
        """Reset all connections."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                ours.close()
                continue
            try:
                theirs = socket.create_connection(self._to)
            except OSError:
                ours.close()
                continue
            with self._lock:
                self.connections += 1
                self._sockets += [ours, theirs]
            self._start(self._forward, ours, theirs)
            self._start(self._forward, theirs, ours)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        swallows = False
        with contextlib.suppress(OSError):
            while head := source.recv(HEAD.size, socket.MSG_WAITALL):
                number, length = HEAD.unpack(head)
                data = source.recv(length, socket.MSG_WAITALL) if length else b""
                kind = Kind(number)
                with self._lock:
                    self.seen[kind] = self.seen.get(kind, 0) + 1
                    verdict = self.rule(kind, self.seen[kind])
                if verdict is None:
                    break
                swallows = swallows or not verdict
                if not swallows:
                    target.sendall(head + data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()
