"""The hugetlb pools: how many pages are free, and growing a pool for a while.

A pool belongs to the whole system, so it is grown only when the caller asks for it, and what was
added is taken away again.  Interface: the kernel's admin guide on hugetlbpage
(/sys/kernel/mm/hugepages).  Growing needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import size_name

_ROOT = "/sys/kernel/mm/hugepages"


class Pool(msgspec.Struct, frozen=True):
    """Pages of one size: in the pool, free, and promised to mappings that have not touched them."""

    page_size: int
    total: int
    free: int
    reserved: int
    surplus: int = 0  # of the total: pages that go when they are freed, not part of the set size

    @property
    def persistent(self) -> int:
        """The size that was set: what nr_hugepages is written for."""
        return self.total - self.surplus

    @property
    def available(self) -> int:
        """Pages that a new mapping can reserve."""
        return max(self.free - self.reserved, 0)


def read_pool(page_size: int) -> Pool:
    """The pool now; raises MemoryUnavailable where the kernel has no pages of this size."""
    try:
        # The numbers come one by one: read until they are the same twice, else what another
        # program frees in between looks like pages that somebody set.
        before: list[int] = []
        numbers = _numbers(page_size)
        while numbers != before:
            before, numbers = numbers, _numbers(page_size)
    except OSError:
        raise MemoryUnavailable(
            f"no hugetlb pages of {size_name(page_size)}",
            cause=f"the kernel has no pool under {_ROOT} for that size",
            cure="use another page size, or a kernel and processor that have it",
        ) from None
    return Pool(page_size, *numbers)


def _numbers(page_size: int) -> list[int]:
    found = []
    for what in ("nr", "free", "resv", "surplus"):
        with open(_path(page_size, what), encoding="ascii") as file:
            found.append(count(file.read()))
    return found


def count(text: str) -> int:
    """A number of pages that the kernel tells.

    What is promised can be 2^64 - 1 for a while: the kernel takes a promise back that it has not
    counted yet, and the number is unsigned (measured on 6.18, with random programs).
    """
    number = int(text)
    return 0 if number >= 1 << 63 else number


class PoolShare:
    """A number of pages of a pool made available; `close()` gives back what was added.

    Raises MemoryUnavailable when the pool is short and `grow` is False, or cannot be grown.
    """

    def __init__(self, page_size: int, pages: int, *, grow: bool) -> None:
        self.page_size = page_size
        self.added = 0
        pool = read_pool(page_size)
        short = pages - pool.available
        if short <= 0:
            return
        if not grow:
            raise self._short(
                pool,
                pages,
                "pass grow_pool=True (needs root), or have the administrator raise "
                f"{_path(page_size, 'nr')} by {short}",
            )
        self._grow(pages)

    def _grow(self, pages: int) -> None:
        for compact in (False, True):
            if compact:
                # A fragmented memory yields few huge pages at first; compaction helps once.
                with contextlib.suppress(OSError), open("/proc/sys/vm/compact_memory", "w") as file:
                    file.write("1")
            try:
                with _locked(self.page_size) as file:
                    pool = read_pool(self.page_size)
                    short = pages - pool.available
                    if short > 0:
                        _write(file, pool.total + short)
                        # A larger size first adopts surplus pages: count what was set, not made.
                        self.added += read_pool(self.page_size).persistent - pool.persistent
            except OSError as error:
                self.close()
                raise self._short(
                    read_pool(self.page_size),
                    pages,
                    f"growing the pool needs root and a writable {_ROOT}"
                    f" ({os.strerror(error.errno or 0)})",
                ) from None
            if read_pool(self.page_size).available >= pages:
                return
        pool = read_pool(self.page_size)
        self.close()
        raise self._short(
            pool,
            pages,
            "memory is too fragmented or too full: free some, or boot "
            "with hugepages= on the kernel command line",
        )

    def _short(self, pool: Pool, pages: int, cure: str) -> MemoryUnavailable:
        return MemoryUnavailable(
            f"{pages} hugetlb page{'s' * (pages > 1)} of {size_name(self.page_size)}"
            f" {'are' if pages > 1 else 'is'} not available",
            cause=f"the pool has {pool.total} pages, {pool.available} of them free"
            + (f", {pool.reserved} promised to others" if pool.reserved else ""),
            cure=cure,
        )

    def close(self) -> None:
        """Give the added pages back; those in use go when they are freed.  Idempotent.

        Best called before the mapping is gone: its pages then become surplus and never look free
        to a program that is about to grow the pool.
        """
        added, self.added = self.added, 0
        if added:
            with (
                contextlib.suppress(OSError),
                growing(self.page_size),
                _locked(self.page_size) as file,
            ):
                _write(file, max(read_pool(self.page_size).persistent - added, 0))


_held = threading.local()


@contextlib.contextmanager
def growing(page_size: int) -> Iterator[None]:
    """From growing the pool to mapping the pages, and while giving back: one program at a time.

    Added pages are free, so they belong to whoever maps first, and a pool that shrinks loses free
    pages before those in use: two programs would take them from each other.  A thread may nest it.
    """
    sizes: set[int] = _held.__dict__.setdefault("sizes", set())
    if page_size in sizes:
        yield
        return
    try:
        file = os.open(_path(page_size, "free"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no such pool: growing it will say so
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        sizes.add(page_size)
        yield
    finally:
        sizes.discard(page_size)
        _unlock(file)


def _path(page_size: int, what: str) -> str:
    return f"{_ROOT}/hugepages-{page_size >> 10}kB/{what}_hugepages"


@contextlib.contextmanager
def _locked(page_size: int) -> Iterator[int]:
    """The pool's size file, locked: two programs that grow it must not lose each other's pages."""
    file = os.open(_path(page_size, "nr"), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        _unlock(file)


def _unlock(file: int) -> None:
    """Not by closing it alone: a child that was forked meanwhile has the lock, too (flock(2))."""
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _write(file: int, total: int) -> None:
    os.pwrite(file, str(total).encode(), 0)
