"""The C parts: compiled when the benchmarks start, called without the GIL."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from array import array
from pathlib import Path

_SOURCES = Path(__file__).parent / "c"
_FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]


class CompilerMissingError(Exception):
    """There is no C compiler: the rival cannot be built."""


class Native:
    """`c/client.c` as functions, and where they and the compiled
    `c/handler.c` lie."""

    def __init__(self, directory: Path) -> None:
        self.handler = directory / "handler"
        library = self.library = directory / "client.so"
        compiled("handler.c", self.handler, [])
        compiled("client.c", library, ["-shared", "-fPIC"])
        self._directory = directory
        # CDLL, not PyDLL: its calls release the GIL, so a fault waits in C alone.
        held = ctypes.CDLL(str(library))
        word, address = ctypes.c_uint64, ctypes.c_void_p
        self._touch = held.bench_touch
        self._touch.restype, self._touch.argtypes = word, [address, address, word, word, address]
        self._hash = held.bench_hash
        self._hash.restype, self._hash.argtypes = word, [address, word]
        self._paint = held.bench_paint
        self._paint.restype, self._paint.argtypes = None, [address, word, word]
        self._fill = held.bench_fill
        self._fill.restype = ctypes.c_int
        self._fill.argtypes = [ctypes.c_int, address, address, address, word]
        self._warm = held.bench_warm
        self._warm.restype, self._warm.argtypes = ctypes.c_int, [word]

    def touch(self, base: int, order: array[int], stride: int) -> int:
        """Read a word of each page of `order`; a hash of what was read."""
        first, count = order.buffer_info()
        found: int = self._touch(base, first, count, stride, None)
        return found

    def touch_timed(self, base: int, order: array[int], stride: int) -> tuple[int, array[int]]:
        """The same, and how many nanoseconds each touch took."""
        first, count = order.buffer_info()
        took = array("Q", bytes(8 * count))
        found: int = self._touch(base, first, count, stride, took.buffer_info()[0])
        return found, took

    def hash(self, base: int, length: int) -> int:
        """A hash of all words there."""
        found: int = self._hash(base, length)
        return found

    def paint(self, base: int, length: int, seed: int) -> None:
        """Words that differ everywhere."""
        self._paint(base, length, seed)

    def fill(self, uffd: int, base: int, source: int, runs: array[int]) -> None:
        """Fill runs (first page, count, first page, count, ...), an ioctl each."""
        first, count = runs.buffer_info()
        if self._fill(uffd, base, source, first, count // 2):
            raise OSError("UFFDIO_COPY failed in the bare loop")

    @property
    def freezer(self) -> Path:
        """`c/freeze.c`, to be preloaded."""
        library = self._directory / "freeze.so"
        if not library.exists():
            compiled("freeze.c", library, ["-shared", "-fPIC", "-fno-stack-protector"])
        return library

    def warm(self, length: int) -> None:
        """Touch and free `length` bytes, so that the host has given them to this machine."""
        if not self._warm(length):
            raise MemoryError(f"no {length} bytes of memory to warm up")


def program(source: str, directory: Path) -> Path:
    """A program of `c/`, compiled there unless it was before."""
    output = directory / source.removesuffix(".c")
    if not output.exists():
        compiled(source, output, [])
    return output


def compiled(source: str, output: Path, options: list[str]) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CompilerMissingError("no C compiler (cc, gcc, clang) was found")
    subprocess.run(
        [compiler, *_FLAGS, *options, "-o", str(output), str(_SOURCES / source)], check=True
    )
