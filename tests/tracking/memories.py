"""Memory of every kind that a program may have, as `mmap.mmap`."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import tempfile
from collections.abc import Callable, Iterator

from helpers.skips import absent
from helpers.world import PoolLock
from userfault import lazy
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import memory
from userfault.linux.memory import Recipe, mapped

PAGE = 4096
MIB = 1 << 20

_BOTH = mmap.PROT_READ | mmap.PROT_WRITE


def _anon(length: int) -> mmap.mmap:
    return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _shared(length: int) -> mmap.mmap:
    return mmap.mmap(-1, length)


def _of_file(length: int, flags: int) -> mmap.mmap:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(1, 251)) * (length // 250 + 1))
        file.truncate(length)
        file.flush()
        return mmap.mmap(file.fileno(), length, flags=flags, prot=_BOTH)


def _lazy(length: int) -> mmap.mmap:
    made = lazy(b"\7" * length, writable=True)
    made.complete()
    return made


def _huge(name: str) -> Callable[[int], mmap.mmap]:
    def make(length: int) -> mmap.mmap:
        def map_it(recipe: Recipe) -> mmap.mmap:
            return mmap.mmap(recipe.fd, length, flags=recipe.flags, prot=_BOTH)

        recipe, made = mapped(memory(name), length, map_it, grow_pool=True)
        _pools.callback(recipe.close)
        return made

    return make


_pools = contextlib.ExitStack()

KINDS: dict[str, Callable[[int], mmap.mmap]] = {
    "anon": _anon,
    "shared": _shared,
    "file": lambda length: _of_file(length, mmap.MAP_SHARED),
    "file-private": lambda length: _of_file(length, mmap.MAP_PRIVATE),
    "lazy": _lazy,
    "hugetlb": _huge("hugetlb"),
    "hugetlb-private": _huge("hugetlb-private"),
}


@contextlib.contextmanager
def mapping(kind: str, length: int) -> Iterator[mmap.mmap]:
    """Memory of this kind; skips where this machine has none."""
    with contextlib.ExitStack() as stack:
        if kind.startswith("hugetlb"):
            stack.enter_context(PoolLock())
        try:
            made = KINDS[kind](length)
        except MemoryUnavailable as error:
            absent(str(error))
        stack.callback(_pools.close)
        stack.callback(made.close)
        yield made


def address_of(made: mmap.mmap) -> int:
    """Where it lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(made))
