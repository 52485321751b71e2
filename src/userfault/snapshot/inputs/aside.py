"""A copy of an input in memory: what it was taken from may go on, however long the pack takes."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from userfault.linux.room import room_of
from userfault.snapshot.inputs.protocol import PAGE, Holds, Run

_BLOCK = 256  # pages that are read at once
_FEW = 4096  # pages that one thread copies before another is up
_THREADS = 4
_MADV_POPULATE_WRITE = 23  # 5.14

_Block = tuple[int, int, int]  # page of the image, place here, pages

# (page of the image, where its bytes and those of the pages behind it are to be); from any thread
ReadInto = Callable[[int, memoryview], None]


class Aside:
    """Room for `pages` pages, which is made ahead: so that filling it takes no time.

    Raises MemoryError, OSError where there is no such room.
    """

    def __init__(self, pages: int) -> None:
        self._held = mmap.mmap(
            -1, max(1, pages) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._room = max(1, pages)
        self._used = 0
        self._firsts: list[int] = []  # of each stretch: its page of the image, and its place here
        self._places: list[int] = []
        self._runs: list[Run] = []
        with contextlib.suppress(OSError):  # before 5.14 they are made by the first write
            self._held.madvise(_MADV_POPULATE_WRITE)

    def fill(self, runs: list[Run], read: ReadInto) -> bool:
        """Copy all data of `runs`; False, and nothing is done, where that is more than the room."""
        if sum(run.pages for run in runs if run.holds is Holds.DATA) > self._room:
            return False
        self._runs = runs
        blocks: list[_Block] = []
        for run in runs:
            if run.holds is not Holds.DATA:
                continue
            self._firsts.append(run.first)
            self._places.append(self._used)
            for page in range(run.first, run.first + run.pages, _BLOCK):
                count = min(_BLOCK, run.first + run.pages - page)
                blocks.append((page, self._used, count))
                self._used += count
        shares = _shares(blocks, self._used)
        if len(shares) == 1:
            self._copy(blocks, read)
        else:
            with ThreadPoolExecutor(len(shares)) as pool:
                # What a share raises is raised here.
                list(pool.map(lambda share: self._copy(share, read), shares))
        return True

    def _copy(self, blocks: list[_Block], read: ReadInto) -> None:
        with memoryview(self._held) as view:
            for page, place, count in blocks:
                with view[place * PAGE : (place + count) * PAGE] as target:
                    read(page, target)

    def runs(self) -> Iterator[Run]:
        """As they were."""
        return iter(self._runs)

    def read_into(self, page: int, target: memoryview) -> None:
        """Pages of one run of data."""
        number = bisect.bisect_right(self._firsts, page) - 1
        place = self._places[number] + page - self._firsts[number]
        target[:] = memoryview(self._held)[place * PAGE : place * PAGE + len(target)]

    def close(self) -> None:
        """Give the memory back."""
        self._held.close()


def _shares(blocks: list[_Block], pages: int) -> list[list[_Block]]:
    """One for each CPU, of about as many pages each."""
    count = max(1, min(len(os.sched_getaffinity(0)), _THREADS, pages // _FEW))
    shares: list[list[_Block]] = [[] for _ in range(count)]
    for block in blocks:
        shares[block[1] * count // max(1, pages)].append(block)
    return shares


def room_for(pages: int) -> bool:
    """Whether that much memory is to be had without harm to others: half of what is left."""
    room = room_of()
    return room is not None and pages * PAGE <= room.left // 2
