"""A world for one test: the live kernel, and everything that the test made on it.

`close()` takes it down in the one order that cannot hang: userfaultfds first (their waiters and
events are released), then tasks, then mappings.  The hugetlb pools belong to the whole machine, so
the first hugetlb memory takes a lock that parallel tests respect, and `close()` checks that the
pools are as they were.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Self

from helpers.skips import absent
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import GIB, MIB, Memory, MemoryType, memory
from userfault.kernel.modes import Feature, Mode
from userfault.kernel.protocol import Outcome
from userfault.linux.hugepool import read_pool
from userfault.linux.pagemap import Pagemap
from userfault.linux.process import LiveKernel, LiveMapping, LivePending, LiveTask
from userfault.linux.uffd import LiveUserfaultfd

POOL_LOCK = os.path.join(tempfile.gettempdir(), "userfault-tests-hugetlb.lock")

NONE = Feature(0)

# Every memory that userfaultfd can register on released kernels; 1 GiB pages have tests of their
# own, since one copy takes seconds.
REGISTRABLE = ("anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private")
CACHED = ("shmem", "shmem-private", "hugetlb")


def pool_sizes() -> dict[int, int]:
    """Pages in the pool of each size that this machine has."""
    sizes = {}
    for size in (2 * MIB, GIB):
        with contextlib.suppress(MemoryUnavailable):
            sizes[size] = read_pool(size).persistent
    return sizes


class PoolLock:
    """One test at a time may change the hugetlb pools; on release they must be as before.

    Processes that a test starts count too: pages that one of them adds for a moment look free to a
    test beside it, and are gone when that one maps them.
    """

    def __init__(self) -> None:
        self._file = os.open(POOL_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.before = pool_sizes()

    def release(self) -> None:
        # A program outside of the tests may grow a pool for a moment; what leaks stays.
        deadline = time.monotonic() + 30
        while (after := pool_sizes()) != self.before and time.monotonic() < deadline:
            time.sleep(0.05)
        os.close(self._file)
        assert after == self.before, f"the hugetlb pools were {self.before}, are {after}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def pool_for(kind: str) -> Iterator[bool]:
    """The hugetlb pools for this test alone where its memory is of them; it has to grow one then:
    whether it has."""
    if not kind.startswith("hugetlb"):
        yield False
        return
    if os.geteuid():
        absent("growing the hugetlb pool needs root")
    with PoolLock():
        yield True


class World:
    """Makes what a test needs and takes it down again."""

    def __init__(self) -> None:
        self.kernel = LiveKernel()
        self.process = self.kernel.process()
        self.pagemap = Pagemap()
        self._uffds: list[LiveUserfaultfd] = []
        self._tasks: list[LiveTask] = []
        self._last: list[LivePending] = []
        self._mappings: list[LiveMapping] = []
        self._lock: PoolLock | None = None

    def lock_pools(self) -> None:
        """Have the hugetlb pools for this test alone."""
        self._lock = self._lock or PoolLock()

    def map(self, wanted: str | Memory, pages: int = 1, **options: Any) -> LiveMapping:
        """Memory of whole pages of its own size; skips where this machine has no such memory."""
        made = memory(wanted)
        if made.type is MemoryType.HUGETLB:
            self.lock_pools()
            options.setdefault("grow_pool", True)
        try:
            mapping = self.process.map(made, pages * made.page_size, **options)
        except MemoryUnavailable as error:
            absent(str(error))
        self._mappings.append(mapping)
        return mapping

    def userfaultfd(self, features: Feature = NONE, **options: Any) -> LiveUserfaultfd:
        """A userfaultfd of this process."""
        return self.owns(LiveUserfaultfd.open(features, **options))

    def owns(self, uffd: LiveUserfaultfd) -> LiveUserfaultfd:
        """Close this one too (it came with a fork event)."""
        self._uffds.append(uffd)
        return uffd

    def registered(
        self,
        wanted: str | Memory,
        pages: int = 1,
        mode: Mode = Mode.MISSING,
        features: Feature = NONE,
    ) -> tuple[LiveMapping, LiveUserfaultfd]:
        """Memory that is registered whole with a userfaultfd of its own."""
        mapping, uffd = self.map(wanted, pages), self.userfaultfd(features)
        uffd.register(mapping.address, mapping.length, mode, memory=mapping.memory)
        return mapping, uffd

    def task(self) -> LiveTask:
        """A thread that touches memory."""
        task = self.process.task()
        self._tasks.append(task)
        return task

    def settle(self) -> None:
        """Nothing more happens by itself."""
        self.kernel.settle()

    def close(self) -> None:
        """Take everything down; AssertionError where the hugetlb pools changed."""
        for uffd in self._uffds:
            uffd.close()
        for task in self._tasks:
            done = task.call(_nothing)
            task.close()
            done.result()
        for mapping in self._mappings:
            mapping.close()
        self.pagemap.close()
        if self._lock:
            self._lock.release()


def _nothing() -> Outcome:
    return Outcome()
