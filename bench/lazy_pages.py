"""CRIU's own daemon, `criu lazy-pages`, as a rival that serves an image to memory of this process.

A process that holds the image is dumped once.  For each turn the daemon begins with that dump, and
what `criu restore --lazy-pages` would do is done here: the memory is mapped where the process had
it, registered, and its userfaultfd handed over (criu.org, Lazy migration; criu/uffd.c).  So the
same client touches the same pages, with nothing of a restore around it.  The daemon answers each
fault by its page, and copies all the others meanwhile, in order.

Run as `python -m bench.lazy_pages FILE READY` it is the process that holds the image.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.images import Image
from bench.waiting import wait_until
from userfault.kernel.modes import Mode
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_ADDRESS = 0x1000_0000_0000  # nobody's, here and there
_FINISHED = struct.pack("=I", 0x52535446)
_PRIVATE = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED_NOREPLACE
_MOST_S = 60.0


class LazyPages:
    """The daemon, with a dump of `image` in `folder`, which it makes.  Needs root, and a CRIU."""

    def __init__(self, image: Image, folder: Path) -> None:
        from helpers.criu import detached, dump, need_criu  # noqa: PLC0415  # beside the tests

        self._criu = need_criu()
        self._folder = folder
        self._length = image.length
        self._turns = 0
        folder.mkdir()
        (folder / "images").mkdir()
        ready = folder / "ready"
        file = f"/proc/{os.getpid()}/fd/{image.fd}"
        words = [sys.executable, "-m", "bench.lazy_pages", file, str(ready)]
        with detached(words) as self._pid:
            _await(ready.exists)
            dump(self._criu, self._pid, folder / "images")

    @contextlib.contextmanager
    def mapped(self) -> Iterator[int]:
        """Memory that it serves; its address."""
        self._turns += 1
        work = self._folder / f"work-{self._turns}"
        work.mkdir()
        path = work / "lazy-pages.socket"
        command = [*self._criu, "lazy-pages", "--images-dir", str(self._folder / "images")]
        with contextlib.ExitStack() as end:
            daemon = end.enter_context(subprocess.Popen([*command, "--work-dir", str(work)]))
            channel = end.enter_context(socket.socket(socket.AF_UNIX))
            # The path is there before anybody listens.
            _await(lambda: not channel.connect_ex(str(path)) or daemon.poll() is not None)
            libc.mmap(_ADDRESS, self._length, mman.PROT_READ, _PRIVATE, -1, 0)
            end.callback(libc.munmap, _ADDRESS, self._length)
            uffd = end.enter_context(LiveUserfaultfd.open())
            end.callback(daemon.kill)
            uffd.register(_ADDRESS, self._length, Mode.MISSING)
            channel.sendall(struct.pack("=i", self._pid))
            socket.send_fds(channel, [b"\0"], [uffd.fileno()])
            channel.sendall(_FINISHED)
            yield _ADDRESS


def _await(done: Callable[[], bool]) -> None:
    wait_until(done, _MOST_S, "CRIU, or what it is to dump, does not come up")


def _hold(file: str, ready: str) -> None:
    """The process: the image as private memory, until it is ended."""
    with open(file, "rb") as source:
        length = os.fstat(source.fileno()).st_size // 4096 * 4096
        access = mman.PROT_READ | mman.PROT_WRITE
        libc.mmap(_ADDRESS, length, access, _PRIVATE, -1, 0)
        for at in range(0, length, 1 << 20):
            libc.write_memory(_ADDRESS + at, source.read(min(1 << 20, length - at)))
    Path(ready).touch()
    time.sleep(1 << 20)


if __name__ == "__main__":
    _hold(sys.argv[1], sys.argv[2])
