"""A client's process: what it is told, what it tells its parent, and connecting."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from userfault.client.board import Board, Step
from userfault.client.results import CLOSED, Said
from userfault.kernel.errors import UserfaultError

T = TypeVar("T")


class RefusedError(Exception):
    """The handler did not let the client come so far."""


def say(said: Said) -> None:
    """A line to the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def told(kind: type[T]) -> tuple[T, Board]:
    """What this process is to do, and its board: the arguments of its command line."""
    return msgspec.json.decode(sys.argv[1], type=kind), Board(int(sys.argv[2]))


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """What ends the client inside is told to the parent."""
    try:
        yield
    except RefusedError as error:
        say(Said(refused=str(error)))
    except UserfaultError as error:
        say(Said(lacking=(error.what, error.cause, error.cure)))
    except OSError as error:
        say(Said(lacking=(f"the client: {error}", "", "")))


def connect(path: str, board: Board) -> socket.socket:
    """A stream to the socket there.  Raises RefusedError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    board.begin(0, Step.CONNECT)
    try:
        channel.connect(path)
    except OSError as error:
        channel.close()
        raise RefusedError(f"cannot connect to {path}: {error.strerror or error}") from None
    board.end(0)
    return channel


def send(channel: socket.socket, data: bytes, fds: list[int], board: Board, piece: int = 0) -> None:
    """All of it, `piece` bytes at once (0: as one), the descriptors with the first.

    Raises RefusedError where nobody takes it.
    """
    board.begin(0, Step.SEND)
    step = piece or len(data)
    try:
        for at in range(0, len(data), step):
            part, sent = data[at : at + step], 0
            if not at and fds:
                sent = socket.send_fds(channel, [part], fds)
            channel.sendall(part[sent:])
    except OSError as error:
        raise RefusedError(f"it takes no message: {error.strerror or error}") from None
    board.end(0)


def watch(channel: socket.socket) -> None:
    """Tell the parent when the handler closes it: a page that does not come is a refusal then."""

    def wait() -> None:
        poll = select.poll()
        poll.register(channel, select.POLLRDHUP)
        poll.poll()
        say(Said(stage=CLOSED))

    threading.Thread(target=wait, daemon=True).start()


def heard(channel: socket.socket) -> tuple[bytes, bool]:
    """What the handler has written so far (4 KiB of it at most), and whether it has closed."""
    found = b""
    channel.setblocking(False)
    while len(found) < 4096:
        try:
            part = channel.recv(4096)
        except BlockingIOError:
            return found, False
        except ConnectionError:
            return found, True
        if not part:
            return found, True
        found += part
    return found, False
