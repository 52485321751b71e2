"""UMap (github.com/LLNL/umap) as a rival, where the user has built it: `--umap FOLDER`.

It serves the faults of its own process, by threads, and a process has one size of pages.  So the
process that touches is a child: `python -m bench.umap LIBRARY CLIENT FD LENGTH` maps the image,
touches pages in the order that comes on standard input, and answers how long that took.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import sys
import time
from array import array
from pathlib import Path

from bench.images import Image
from bench.machine import put_process
from bench.native import Native

_ORDER = struct.Struct("=Q")
_READY = b"ready"
_WARM = 1 << 20  # bytes
_ANSWER = struct.Struct("=dQ")  # seconds, hash


LIBRARY = Path("lib", "libumap.so")


class UmapError(Exception):
    """UMap cannot be used, or has failed."""


class Umap:
    """A process whose memory UMap serves in pages of `page` bytes.  `folder`: has `lib/`.

    `buffer`: pages that it may have in memory (0: all of them).  UMap keeps the buffer of a mapping
    that is gone, so each mapping has a process of its own, in which a small one was touched before.
    Raises UmapError.
    """

    def __init__(
        self, native: Native, folder: Path, image: Image, page: int, *, buffer: int = 0
    ) -> None:
        most = buffer or image.length // page + 64
        settings = {"UMAP_PAGESIZE": str(page), "UMAP_BUFSIZE": str(most)}
        self._fd = image.fd
        self._words = [str(folder / LIBRARY), str(native.library), str(image.fd), str(image.length)]
        self._environment = {**os.environ, **settings}
        self._begin()

    def _begin(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.umap", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._fd],
            env=self._environment,
        )
        self.pid = self._child.pid
        self._answer(len(_READY))

    def _answer(self, size: int) -> bytes:
        assert self._child.stdout is not None
        answer = self._child.stdout.read(size)
        if len(answer) < size:
            _, said = self._child.communicate()
            why = said.decode(errors="replace").strip().rpartition("\n")[2]
            code = self._child.returncode
            raise UmapError(f"UMap has failed: its process ended with {code}: {why or 'no word'}")
        return answer

    def touch(self, order: array[int], cpus: set[int]) -> tuple[float, int]:
        """Seconds until all were touched, in a fresh mapping; a hash of what was read."""
        assert self._child.stdin is not None
        put_process(self.pid, cpus)
        self._child.stdin.write(_ORDER.pack(len(order)) + order.tobytes())
        self._child.stdin.flush()
        took, found = _ANSWER.unpack(self._answer(_ANSWER.size))
        self.close()
        self._begin()
        return took, found

    def close(self) -> None:
        """End the process."""
        self._child.communicate()


def folder(text: str) -> Path:
    """Where UMap is built.  Raises ValueError."""
    found = Path(text)
    if not (found / LIBRARY).is_file():
        raise ValueError(f"{text}: UMap is not built there: no {LIBRARY} in it")
    return found


def _child(library: str, client: str, fd: int, length: int) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # it says on standard output how it is set
    try:
        umap = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        sys.exit(str(error))
    os.dup2(null, 2)
    umap.umap.restype = ctypes.c_void_p
    word, address = ctypes.c_uint64, ctypes.c_void_p
    umap.umap.argtypes = [address, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, word]
    umap.uunmap.argtypes = [address, word]
    held = ctypes.CDLL(client)
    held.bench_touch.restype = word
    held.bench_touch.argtypes = [address, address, word, word, address]
    small = min(length, _WARM)
    warmed = umap.umap(None, small, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    pages = array("I", range(small // mmap.PAGESIZE))
    held.bench_touch(warmed, pages.buffer_info()[0], len(pages), mmap.PAGESIZE, None)
    umap.uunmap(warmed, small)
    answers.write(_READY)
    answers.flush()
    while count := sys.stdin.buffer.read(_ORDER.size):
        order = array("I", sys.stdin.buffer.read(4 * _ORDER.unpack(count)[0]))
        start = time.perf_counter()
        base = umap.umap(None, length, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise OSError("umap has failed")
        first, number = order.buffer_info()
        found = held.bench_touch(base, first, number, mmap.PAGESIZE, None)
        took = time.perf_counter() - start
        umap.uunmap(base, length)
        answers.write(_ANSWER.pack(took, found))
        answers.flush()


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
