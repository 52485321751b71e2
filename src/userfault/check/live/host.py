"""Where the agents of a program live: this system, or a guest of the lab.

All that a live kernel cannot do through an agent's own socket is asked of its host: to start
agents, to take in forked children, to wait for any of them, to see to huge pages.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from typing import Protocol

from userfault.check.live.agent.build import NoAgent, agent_path, cache_directory
from userfault.check.live.link import Link
from userfault.linux.hugepool import PoolShare, growing
from userfault.linux.swapfile import SwapFile


class Host(Protocol):
    """The system that one program's agents run on."""

    @property
    def release(self) -> str:
        """As `uname -r` says it."""

    @property
    def directory(self) -> str:
        """A directory there, on a disk: for files without a name."""

    @property
    def memfds(self) -> str:
        """A directory there whose files without a name stand for those of memfd_create(2), so that
        a program written for shared memory runs on another memory type; "": none."""

    def spawn(self) -> tuple[int, Link]:
        """Start an agent: its pid, and the link to it."""

    def callback_address(self) -> bytes:
        """The struct sockaddr_un that a forked child connects to."""

    def callers(self) -> Iterator[tuple[int, Link]]:
        """The forked children that have called since; takes in what has arrived, never waits."""

    def wait(self, links: Iterable[Link], timeout_s: float) -> bool:
        """Wait until something may have come from one of them; False if nothing did."""

    def status(self, pid: int) -> int | None:
        """The exit status of an agent whose socket is closed; None if it does not end soon."""

    def hugepages(self, page_size: int, pages: int) -> None:
        """See to free pages of a pool until `close()`.  Raises MemoryUnavailable."""

    def swap(self) -> None:
        """See to swap space until `close()`.  Raises MemoryUnavailable."""

    def close(self) -> None:
        """End every agent, give back every page."""


class ThisHost:
    """The running system."""

    directory = property(lambda _self: str(cache_directory()))
    release = property(lambda _self: os.uname().release)
    memfds = ""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._listener: socket.socket | None = None
        self._given_back = contextlib.ExitStack()

    def spawn(self) -> tuple[int, Link]:
        ours, theirs = socket.socketpair()
        with theirs:
            child = _spawn(theirs.fileno())
        self._children.append(child)
        return child.pid, Link(ours)

    def callback_address(self) -> bytes:
        if self._listener is None:  # an abstract name
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(b"\0userfault-check-" + os.urandom(16).hex().encode())
            self._listener.listen()
            self._listener.setblocking(False)
        name = self._listener.getsockname()
        return struct.pack("=H", socket.AF_UNIX) + bytes(name)

    def callers(self) -> Iterator[tuple[int, Link]]:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("=iII", credentials)
        if uid == os.geteuid():
            yield pid, Link(connection)
        else:
            connection.close()

    def wait(self, links: Iterable[Link], timeout_s: float) -> bool:
        alive = list(links)
        readers: list[Link | socket.socket] = list(alive)
        if self._listener is not None:
            readers.append(self._listener)
        writers = [link for link in alive if link.backlog]
        readable, writable, _ = select.select(readers, writers, [], timeout_s)
        for link in writable:
            link.flush()
        return bool(readable or writable)

    def status(self, pid: int) -> int | None:
        for child in self._children:
            if child.pid == pid:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(1)  # its socket is closed before it has quite ended
        return None

    def hugepages(self, page_size: int, pages: int) -> None:
        # Held until the end: free pages belong to whoever maps first.
        self._given_back.enter_context(growing(page_size))
        share = PoolShare(page_size, pages, grow=True)
        self._given_back.callback(share.close)

    def swap(self) -> None:
        self._given_back.callback(SwapFile([self.directory, "/var/tmp"]).close)

    def close(self) -> None:
        for child in self._children:
            child.kill()
            # A task that does not even die of SIGKILL must not hang us too.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
        if self._listener is not None:
            self._listener.close()
        self._given_back.close()


def _spawn(connection: int) -> subprocess.Popen[bytes]:
    path = agent_path()
    try:
        return subprocess.Popen(
            [path, str(connection)],
            pass_fds=(connection,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise NoAgent(
            "cannot run here: the agent does not start",
            cause=str(error),
            cure="set XDG_CACHE_HOME to a directory whose programs may be run",
        ) from None
