"""The other end of a control socket: what `userfault sessions` and the like are made of."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from userfault.kernel.errors import PagerError
from userfault.serve.control import FAREWELL, VERSION

_ANSWER_S = 10.0
_TRIES = 3  # a worker may be killed while it answers
_PIECE = 1 << 16
_NOW = socket.MSG_DONTWAIT
_FAREWELL = FAREWELL.strip()


class SilentError(PagerError):
    """A daemon, or one of its workers, that does not answer."""


class Line:
    """A connection to a daemon's control socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.settimeout(_ANSWER_S)
        self._farewell = False
        self._lock = threading.Lock()  # metrics are asked for by threads

    @classmethod
    def to(cls, path: str) -> Line:
        """Raises PagerError where no daemon listens."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(path)
        except OSError as error:
            channel.close()
            raise PagerError(
                f"no daemon can be asked at {path}",
                cause=error.strerror or str(error),
                cure="name the path that `userfault serve --control PATH` was started with",
            ) from None
        return cls(channel)

    def ask(self, command: str, fds: Sequence[int] = (), **arguments: Any) -> dict[str, Any]:
        """Send a command, with descriptors; its answer.

        Raises PagerError where it is refused, or none comes.
        """
        request = {"version": VERSION, "command": command, "arguments": arguments}
        with self._lock:
            return self._asked(msgspec.json.encode(request) + b"\n", fds)

    def _asked(self, data: bytes, fds: Sequence[int]) -> dict[str, Any]:
        for _ in range(_TRIES):
            try:
                self._send(data, fds)
                answer = self._line()
            except TimeoutError:
                continue
            except OSError:
                break
            if answer is None:
                break
            if answer.get("ok"):
                return answer
            raise PagerError(
                str(answer.get("what")),
                cause=str(answer.get("cause")),
                cure=str(answer.get("cure")),
            )
        raise SilentError(
            "the daemon does not answer",
            cause="it has ended, or is stuck",
            cure="look at its log",
        )

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        sent = socket.send_fds(self._channel, [data], list(fds)) if fds else 0
        self._channel.sendall(data[sent:])

    def farewell(self) -> bool:
        """Of a worker that has ended: whether it did so in peace."""
        with self._lock, contextlib.suppress(OSError):
            while not self._farewell and (piece := self._channel.recv(_PIECE, _NOW)):
                self._farewell = _FAREWELL in piece.split(b"\n")
        return self._farewell

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _line(self) -> dict[str, Any] | None:
        """One answer; None at the end."""
        came = bytearray()
        answers: list[bytes] = []
        while not answers:
            piece = self._channel.recv(_PIECE)
            if not piece:
                return None
            came += piece
            *lines, came = came.split(b"\n")
            self._farewell = self._farewell or _FAREWELL in lines
            answers += [bytes(line) for line in lines if line != _FAREWELL]
        return msgspec.json.decode(answers[-1], type=dict[str, Any])
