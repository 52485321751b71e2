"""The other end of a page server, as CRIU's text has it: written from that, not from our code."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from userfault.serve.page_server.listening import PageServer, Settings

PAGE = 4096
OPEN2, PARENT, ADD_F, GET, COMPRESSED, CLOSE = 4, 5, 6, 7, 8, 0x1023
LAZY, PRESENT = 2, 4


class Peer:
    """Connected to `address`, or by `channel`.  `short`: it speaks as releases up to 4.1.1 do."""

    def __init__(
        self,
        address: str,
        *,
        short: bool = False,
        wrap: Any = None,
        channel: socket.socket | None = None,
    ) -> None:
        self.short = short
        if channel is not None:
            self.socket = channel
        elif "/" in address:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        else:
            host, port = address.split(":")
            self.socket = socket.create_connection((host, int(port)), 30)
        self.socket.settimeout(30)
        if wrap is not None:
            self.socket = wrap(self.socket)

    def head(self, command: int, pages: int = 0, address: int = 0, to: int = 0) -> bytes:
        return struct.pack("=IIQQ" if self.short else "=I4xQQQ", command, pages, address, to)

    def send(self, data: bytes, step: int = 0) -> None:
        """All of it, or `step` bytes at a time."""
        for at in range(0, len(data), step or len(data) or 1):
            self.socket.sendall(data[at : at + (step or len(data))])

    def open(self, pid: int, kind: int = 1) -> int:
        self.send(self.head(OPEN2, to=pid << 8 | kind))
        return self.exactly(1)[0]

    def add(self, pid: int, address: int, data: bytes, flags: int = PRESENT, kind: int = 1) -> None:
        self.send(self.head(ADD_F | flags << 16, len(data) // PAGE, address, pid << 8 | kind))
        self.send(data)

    def get(self, pid: int, address: int, pages: int) -> bytes:
        """The pages that come."""
        self.send(self.head(GET, pages, address, pid))
        return self.answer(pid, address, pages)

    def answer(self, pid: int, address: int, pages: int) -> bytes:
        form = struct.Struct("=IIQQ" if self.short else "=I4xQQQ")
        word, came, at, whose = form.unpack(self.exactly(form.size))
        assert (word, at, whose) == (ADD_F | PRESENT << 16, address, pid)
        assert 0 < came <= pages
        return self.exactly(came * PAGE)

    def close(self) -> int:
        """Say that it was all; what the server says to that."""
        self.send(self.head(CLOSE))
        (status,) = struct.unpack("=i", self.exactly(4))
        self.socket.close()
        return int(status)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                self.socket.close()
                raise ConnectionError(f"the server has closed after {len(data)} of {size} bytes")
            data += piece
        return data

    def ended(self) -> bool:
        """Whether the server has closed, without another word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        finally:
            self.socket.close()


@contextlib.contextmanager
def page_server(folder: Path, **settings: Any) -> Iterator[PageServer]:
    """One on a socket of its own, that ends whoever is there at the end."""
    made = PageServer(Settings(**{"address": f"{folder}/page-server", **settings}))
    try:
        yield made
    finally:
        made.close(now=True)


def pages(seed: int, count: int) -> bytes:
    """Pages that differ from each other."""
    return b"".join(struct.pack("=QQ", seed, number) * (PAGE // 16) for number in range(count))
