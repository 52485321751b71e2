"""The memory that random programs use: named areas at fixed addresses, one of every kind.

All areas of 4 KiB pages lie side by side under one page table, so that what a table of its own
would change (fault-around, PAGEMAP_SCAN) is compared too; half of `edge` lies under the one before.
"""

from __future__ import annotations

import msgspec

from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE
from userfault.uapi import mman

_SHARED, _PRIVATE = mman.MAP_SHARED, mman.MAP_PRIVATE
_ANON = mman.MAP_ANONYMOUS


class Area(msgspec.Struct, frozen=True):
    """A stretch of addresses, and what `map` puts there.

    `memory`: its column in the coverage.  `file`: the name of the file behind it, of `FILES`.
    `within`: the area of which it is a part, to be named page by page; only that one is mapped.
    """

    name: str
    memory: str
    address: int
    pages: int
    page: int = PAGE
    flags: int = 0
    file: str = ""
    within: str = ""

    @property
    def length(self) -> int:
        return self.pages * self.page


FILES = {"m": "shmem", "h": "hugetlb", "d": "disk-private", "g": "guest_memfd"}
FILE_PAGES = {"m": 8, "h": 3, "d": 8, "g": 4}

_SMALL = calls.place(1)
_STRIDE = 16 * PAGE
_HUGE = calls.place(2)
_HUGE_STRIDE = 8 * HUGE


def _small(slot: int, name: str, memory: str, flags: int, file: str = "", pages: int = 8) -> Area:
    return Area(name, memory, _SMALL + (slot + 1) * _STRIDE, pages, PAGE, flags, file)


def _huge(slot: int, name: str, memory: str, flags: int, file: str = "") -> Area:
    return Area(name, memory, _HUGE + slot * _HUGE_STRIDE, 3, HUGE, flags, file)


_HUGE_FLAGS = mman.MAP_HUGETLB | mman.MAP_HUGE_2MB

_ALL = (
    Area("edge", "anon", _SMALL - 4 * PAGE, 8, PAGE, _PRIVATE | _ANON),
    # `src` is what COPY copies from; `map src` writes a letter into each of its pages.
    _small(0, "src", "anon", _PRIVATE | _ANON),
    _small(1, "anon", "anon", _PRIVATE | _ANON),
    _small(2, "dst", "anon", _PRIVATE | _ANON),
    _small(3, "shm", "shmem", _SHARED, "m"),
    _small(4, "alias", "shmem", _SHARED, "m"),
    _small(5, "priv", "shmem-private", _PRIVATE, "m"),
    _small(6, "shanon", "shmem", _SHARED | _ANON),
    _small(7, "disk", "disk-private", _PRIVATE, "d"),
    _small(8, "drop", "droppable", mman.MAP_DROPPABLE | _ANON),
    _small(9, "gmem", "guest_memfd", _SHARED, "g", 4),
    _huge(0, "huge", "hugetlb", _SHARED, "h"),
    _huge(1, "hugealias", "hugetlb", _SHARED, "h"),
    _huge(2, "hugepriv", "hugetlb-private", _PRIVATE, "h"),
    _huge(3, "hugeanon", "hugetlb-private", _PRIVATE | _ANON | _HUGE_FLAGS),
    # Anonymous memory with MADV_HUGEPAGE; the second area is the first pages of its second 2 MiB.
    Area("thp", "thp", calls.place(3), 3, HUGE, _PRIVATE | _ANON),
    Area("part", "thp", calls.place(3) + HUGE, 8, PAGE, _PRIVATE | _ANON, within="thp"),
    # Where nothing can be: the first pages, and the last ones of user space.
    Area("null", "nowhere", 0, 1),
    Area("top", "nowhere", calls.TASK_SIZE - 2 * PAGE, 2),
)
AREAS = {area.name: area for area in _ALL}
MEMORIES = tuple(dict.fromkeys(area.memory for area in _ALL))
# Who names the one may mean a part of it, too.
PARTS = {area.within: area.name for area in _ALL if area.within}
# Enough for every area, a file of its own and the copies of two children.
HUGE_PAGES = 24
