"""A redis-server to be restored, and as much of its protocol as tests need (redis.io, RESP2)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.criu import detached
from helpers.debian import unpacked
from helpers.skips import absent
from helpers.waiting import wait_until

_SIZE = 64  # bytes of a value


def need_redis() -> list[str]:
    """The start of a command line that runs it: the system's, or one unpacked for the tests."""
    problem, command = _redis()
    if problem:
        absent(f"Redis: {problem}")
    return [*command, "--enable-debug-command", "yes", "--bind", "127.0.0.1"]


@functools.cache
def _redis() -> tuple[str, list[str]]:
    found = shutil.which("redis-server")
    if found:
        return "", [found]
    problem, folder = unpacked("redis-server")
    return problem, [*folder.started_by, str(folder.path / "usr/bin/redis-server")]


def value(number: int) -> bytes:
    """What key NUMBER has (DEBUG POPULATE)."""
    return b"value:%d" % number + bytes(_SIZE - len(b"value:%d" % number))


class Redis:
    """A connection to the server at `port` of this machine."""

    def __init__(self, port: int, timeout_s: float = 60) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._file = self._socket.makefile("rb")

    def ask(self, *words: str) -> str | int | bytes | None:
        """A command; its answer.  AssertionError for an error."""
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words]
        self._socket.sendall(b"".join(parts))
        return self._answer()

    def info(self, section: str) -> bytes:
        """What INFO tells."""
        found = self.ask("INFO", section)
        assert isinstance(found, bytes)
        return found

    def fill(self, keys: int) -> None:
        """Make so many."""
        assert self.ask("DEBUG", "POPULATE", str(keys), "key", str(_SIZE)) == "OK"
        assert self.ask("DBSIZE") == keys

    def check(self, numbers: Iterable[int]) -> None:
        """These keys have their values."""
        for number in numbers:
            assert self.ask("GET", f"key:{number}") == value(number), number

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def _answer(self) -> str | int | bytes | None:
        line = self._file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        assert kind in (b"+", b":", b"$"), line
        if kind == b"+":
            return rest.decode()
        if kind == b":" or int(rest) < 0:
            return int(rest) if kind == b":" else None
        found = self._file.read(int(rest) + 2)
        return found[:-2]


def connections(port: int) -> int:
    """How many to that port of this machine are open, or not closed by both sides yet."""
    ended = ("06", "0A")  # TIME_WAIT, LISTEN (include/net/tcp_states.h)
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        ours = f":{port:04X}"
        found += (local.endswith(ours) or remote.endswith(ours)) and state not in ended
    return found


@contextlib.contextmanager
def filled(command: list[str], folder: Path, keys: int) -> Iterator[tuple[int, int]]:
    """A server with so many keys that nobody is connected to: its process and its port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = [*command, "--port", str(port), "--dir", str(folder), "--save", ""]
    with detached(words) as pid:
        wait_until(lambda: listens(port))
        with contextlib.closing(Redis(port)) as redis:
            redis.fill(keys)
        wait_until(lambda: not connections(port))
        yield pid, port


def listens(port: int) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(ConnectionRefusedError):
        Redis(port).close()
        return True
    return False
