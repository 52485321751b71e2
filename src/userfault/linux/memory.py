"""Making memory of each type: one creation call a type, in one table.

A `Recipe` says how to mmap fresh memory: the descriptor behind it (-1 for none) and the flags.
The caller maps it, either by `libc.mmap` or as a `mmap.mmap` object.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from userfault.kernel.errors import MemoryUnavailable, UsageError
from userfault.kernel.memtypes import GIB, MIB, Memory, MemoryType, round_up, size_name
from userfault.linux import guest_memfd
from userfault.linux.hugepool import PoolShare, growing
from userfault.linux.libc import fallocate, mincore, mmap, munmap, read_memory, write_memory
from userfault.linux.refused import calling, cause_of, cure_of
from userfault.uapi import mman

# What pread and pwrite say where the file has no such operation.
_NO_FILE_IO = (errno.EINVAL, errno.ESPIPE)
T = TypeVar("T")

_GROW_TRIES = 3
_HUGE_MAP = {2 * MIB: mman.MAP_HUGE_2MB, GIB: mman.MAP_HUGE_1GB}


class FileBacking:
    """The object behind a mapping, by its descriptor; the descriptor is closed with it."""

    def __init__(self, fd: int, length: int) -> None:
        self._fd = fd
        self._length = length

    def fileno(self) -> int:
        """The descriptor; pass it to map the same memory elsewhere."""
        return self._fd

    @property
    def length(self) -> int:
        """Size in bytes when it was made."""
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        """Bytes by pread(2), else (guest_memfd has none) through an alias; holes stay holes."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            if error.errno not in _NO_FILE_IO:
                raise
        with self._alias(offset, length) as (address, skip):
            step = os.fstat(self._fd).st_blksize
            resident = mincore(address, skip + length, step)
            pages = (
                read_memory(address + at * step, step) if there & 1 else bytes(step)
                for at, there in enumerate(resident)
            )
            return b"".join(pages)[skip : skip + length]

    def write(self, offset: int, data: bytes) -> None:
        """Write by pwrite(2), else (hugetlb, guest_memfd) through an alias: seen at once."""
        try:
            os.pwrite(self._fd, data, offset)
        except OSError as error:
            if error.errno not in _NO_FILE_IO:
                raise
            with self._alias(offset, len(data)) as (address, skip):
                write_memory(address + skip, data)

    @contextlib.contextmanager
    def _alias(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """A mapping of these bytes for a moment, and where in it they begin."""
        # st_blksize is the page size of the memory: 2 MiB or 1 GiB for hugetlb.
        skip = offset % os.fstat(self._fd).st_blksize
        whole = round_up(skip + length, os.fstat(self._fd).st_blksize)
        access = mman.PROT_READ | mman.PROT_WRITE
        address = mmap(0, whole, access, mman.MAP_SHARED, self._fd, offset - skip)
        try:
            yield address, skip
        finally:
            munmap(address, whole)

    def punch_hole(self, offset: int, length: int) -> None:
        """Free the pages: no userfaultfd event tells of it."""
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        fallocate(self._fd, mode, offset, length)

    def truncate(self, length: int) -> None:
        """Set the size; pages beyond go, accesses there raise SIGBUS."""
        os.ftruncate(self._fd, length)

    def close(self) -> None:
        """Close the descriptor; mappings stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Recipe(msgspec.Struct, frozen=True):
    """How to map fresh memory: length rounded to whole pages, flags, descriptor, pool share."""

    memory: Memory
    length: int
    flags: int
    backing: FileBacking | None = None
    share: PoolShare | None = None

    @property
    def fd(self) -> int:
        return self.backing.fileno() if self.backing else -1

    def leave(self) -> None:
        """In a forked child: close the descriptor.  The pool pages are the parent's."""
        if self.backing:
            self.backing.close()

    def close(self) -> None:
        """Give pool pages back and close the descriptor; mappings stay."""
        if self.share:
            self.share.close()
        if self.backing:
            self.backing.close()


def prepare(memory: Memory, length: int, *, grow_pool: bool = False, name: str = "") -> Recipe:
    """What it takes to map `length` bytes (rounded up to whole pages) of fresh `memory`.

    Raises UsageError for an empty length, MemoryUnavailable with the cure where this system
    cannot make such memory.
    """
    if length <= 0:
        raise UsageError(
            f"cannot map {length} bytes", cause="memory has at least one page", cure="map more"
        )
    whole = round_up(length, memory.page_size)
    try:
        return _MAKERS[memory.type](memory, whole, grow_pool, name or "userfault")
    except OSError as error:
        raise refusal(memory, whole, error) from None


def mapped(
    memory: Memory,
    length: int,
    map_it: Callable[[Recipe], T],
    *,
    grow_pool: bool = False,
    name: str = "",
) -> tuple[Recipe, T]:
    """`prepare`, and what `map_it` made of the recipe (it calls mmap, and may raise OSError).

    With `grow_pool` the two are one step: pages that were added to a pool are ours only once they
    are mapped.  A program that does not ask `growing` can still be quicker: then try again.
    """
    tries = _GROW_TRIES if grow_pool and memory.type is MemoryType.HUGETLB else 1
    while True:
        with growing(memory.page_size) if tries > 1 else contextlib.nullcontext():
            recipe = prepare(memory, length, grow_pool=grow_pool, name=name)
            try:
                return recipe, map_it(recipe)
            except OSError as error:
                recipe.close()
                tries -= 1
                if not tries or error.errno != errno.ENOMEM:
                    raise refusal(memory, recipe.length, error) from None
            except BaseException:
                recipe.close()
                raise


def refusal(memory: Memory, length: int, error: OSError) -> MemoryUnavailable:
    """The typed error for a failed creation or mmap call."""
    cures = {
        errno.EAGAIN: "mlockall(MCL_FUTURE) counts it as locked memory: raise `ulimit -l`",
        errno.ENOMEM: "free memory or address space, raise the memory limit"
        + (" or the hugetlb pool" if memory.type is MemoryType.HUGETLB else ""),
        errno.ENOSPC: "free space in the hugetlb pool or tmpfs",
    }
    return MemoryUnavailable(
        f"cannot make {size_name(length)} of {memory}",
        cause=cause_of(error),
        cure=cures.get(error.errno or 0) or cure_of(error),
    )


def _anon(memory: Memory, length: int, grow_pool: bool, name: str) -> Recipe:
    del grow_pool, name
    return Recipe(memory, length, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)


def _shmem(memory: Memory, length: int, grow_pool: bool, name: str) -> Recipe:
    del grow_pool
    backing = _memfd(name, 0, length)
    return Recipe(memory, length, _sharing(memory), backing)


def _hugetlb(memory: Memory, length: int, grow_pool: bool, name: str) -> Recipe:
    share = PoolShare(memory.page_size, length // memory.page_size, grow=grow_pool)
    size = _HUGE_MAP[memory.page_size]
    if not memory.shared:
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB | size
        return Recipe(memory, length, flags, None, share)
    try:
        backing = _memfd(name, mman.MFD_HUGETLB | size, length)
    except OSError:
        share.close()
        raise
    return Recipe(memory, length, mman.MAP_SHARED, backing, share)


def _guest_memfd(memory: Memory, length: int, grow_pool: bool, name: str) -> Recipe:
    del grow_pool, name
    backing = FileBacking(guest_memfd.create(length), length)
    return Recipe(memory, length, mman.MAP_SHARED, backing)


_MAKERS: dict[MemoryType, Callable[[Memory, int, bool, str], Recipe]] = {
    MemoryType.ANON: _anon,
    MemoryType.SHMEM: _shmem,
    MemoryType.HUGETLB: _hugetlb,
    MemoryType.GUEST_MEMFD: _guest_memfd,
}


def _sharing(memory: Memory) -> int:
    return mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE


def _memfd(name: str, flags: int, length: int) -> FileBacking:
    with calling("memfd_create"):
        fd = os.memfd_create(name, flags | mman.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, length)
    except OSError:
        os.close(fd)
        raise
    return FileBacking(fd, length)
