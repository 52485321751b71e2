"""The two sides: our pager and the handler in C, behind one small surface.

A side makes mappings that a client in this process touches.  Both are anonymous private memory
(or a shared mapping of the image, when it is prepared), read-only, registered by this process.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import userfault
from bench.images import Image
from bench.native import Native
from userfault.kernel.modes import Mode
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.states import PRESENT


class Source(Protocol):
    """An open file."""

    fd: int
    length: int


class Mapped(Protocol):
    """Memory being served."""

    address: int

    def fill(self) -> float:
        """Have everything filled; seconds it took."""

    def counts(self) -> tuple[int, int]:
        """Pages present (0 where unknown), faults served."""


class Side(Protocol):
    """Who serves."""

    pid: int

    def mapped(self, image: Source) -> AbstractContextManager[Mapped]:
        """Memory that shows `image`, within a `with` block."""

    def close(self) -> None:
        """End the process."""


# --- ours ----------------------------------------------------------------------------------------

DEMAND = userfault.Policy(background=False, record="never")


class Ours:
    """A pager process of ours, as shipped but for `placing`: options of `userfault.Pager`."""

    def __init__(
        self, policy: userfault.Policy = DEMAND, *, prepared: bool = False, **placing: Any
    ) -> None:
        self._pager = userfault.Pager(**placing)
        self._policy = policy
        self._prepared = prepared
        with userfault.lazy(b"started", pager=self._pager):
            self.pid = self._pager.processes()["worker"]

    @contextmanager
    def mapped(self, image: Source) -> Iterator[Mapped]:
        """See `Side`."""
        kind = "shmem" if self._prepared else "anon"
        with userfault.lazy(
            image.fd,
            memory=kind,
            prepared=self._prepared,
            policy=self._policy,
            pager=self._pager,
        ) as memory:
            yield _OurMapping(memory)

    def beside(self, image: Image, policy: userfault.Policy) -> userfault.LazyMemory:
        """One more mapping of the same pager."""
        return userfault.lazy(image.fd, policy=policy, pager=self._pager)

    def close(self) -> None:
        """See `Side`."""
        self._pager.close()


class _OurMapping:
    def __init__(self, memory: userfault.LazyMemory) -> None:
        self._memory = memory
        self.address = memory.address

    def fill(self) -> float:
        start = time.perf_counter()
        self._memory.complete()
        return time.perf_counter() - start

    def counts(self) -> tuple[int, int]:
        present = self._memory.page_states[:].count(PRESENT)  # before anything else
        return present, self._memory.statistics().counters.faults


# --- C -------------------------------------------------------------------------------------------

_ASK, _SERVE, _FILL, _FORGET = range(4)
_REQUEST = struct.Struct("=QQQQQ")
_REPLY = struct.Struct("=QQ")


class Rival:
    """`c/handler.c`: answers each fault by one page.  `fill_size`: bytes an ioctl of `fill()`.

    `polls`: it never sleeps while it serves.  `reads`: it reads the source, page by page.
    """

    def __init__(
        self,
        native: Native,
        *,
        prepared: bool = False,
        fill_size: int = 0,
        polls: bool = False,
        reads: bool = False,
    ) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._prepared = prepared
        self._fill_size = fill_size
        how = "poll" if polls else "read" if reads else "sleep"
        with theirs:
            # posix_spawn keeps it at descriptor 3, which is all that the handler inherits
            self.pid = os.posix_spawn(
                native.handler,
                [str(native.handler), how],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
            )

    @contextmanager
    def mapped(self, image: Source) -> Iterator[Mapped]:
        """See `Side`."""
        shared = mmap.MAP_SHARED if self._prepared else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        fd = image.fd if self._prepared else -1
        with (
            mmap.mmap(fd, image.length, flags=shared, prot=mmap.PROT_READ) as memory,
            LiveUserfaultfd.open() as uffd,
        ):
            with Pinned(memory) as pinned:
                address = pinned.address
            mode = Mode.MISSING | (Mode.MINOR if self._prepared else Mode(0))
            uffd.register(address, image.length, mode)
            fds = [uffd.fileno()] if self._prepared else [uffd.fileno(), image.fd]
            self.ask(_SERVE, address, image.length, fds=fds)
            try:
                yield _RivalMapping(self, address, self._fill_size or image.length)
            finally:
                self.ask(_FORGET)

    def ask(
        self,
        operation: int,
        start: int = 0,
        length: int = 0,
        *,
        size: int = 0,
        fds: list[int] | None = None,
    ) -> tuple[int, int]:
        """One request, one reply: faults served so far, nanoseconds of a fill."""
        message = _REQUEST.pack(operation, start, length, size, self._prepared)
        socket.send_fds(self._channel, [message], fds or [])
        answer = self._channel.recv(_REPLY.size)
        if not answer:
            raise subprocess.SubprocessError("the handler in C has failed")
        faults, took_ns = _REPLY.unpack(answer)
        return faults, took_ns

    def close(self) -> None:
        """See `Side`."""
        self._channel.close()
        os.waitpid(self.pid, 0)


class _RivalMapping:
    def __init__(self, rival: Rival, address: int, fill_size: int) -> None:
        self._rival = rival
        self._fill_size = fill_size
        self.address = address

    def fill(self) -> float:
        _, took_ns = self._rival.ask(_FILL, size=self._fill_size)
        return took_ns / 1e9

    def counts(self) -> tuple[int, int]:
        faults, _ = self._rival.ask(_ASK)
        return 0, faults
