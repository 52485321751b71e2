"""What the tests of the judge do in a process of their own (`helpers.child`)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import tempfile
import time
from pathlib import Path

from stress import source
from stress.board import Board
from stress.build import build
from userfault.kernel.memtypes import MIB
from userfault.kernel.modes import Mode
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

KIND = 1
_HUGE = 0x40000 | 21 << 26  # linux/mman.h: MAP_HUGETLB | MAP_HUGE_2MB
_TURN_S = 0.3


def move_of_two_mappings(pages: int, registered_from: int) -> list[str]:
    """Move memory of which the second part is registered; then read every page: what was wrong."""
    size = pages * source.PAGE
    home = libc.mmap(
        0, size, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS, -1, 0
    )
    for page in range(pages):
        libc.write_memory(home + page * source.PAGE, source.words(KIND, page, source.PAGE))
    second = registered_from * source.PAGE
    uffd = LiveUserfaultfd.open()
    uffd.register(home + second, size - second, Mode.MISSING)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Board()) as board:
        library = ctypes.CDLL(str(build(Path(folder))))
        library.stress_start(
            ctypes.c_void_p(ctypes.addressof(board.layout)), 0, ctypes.c_uint64(1), 0
        )
        library.stress_open(
            0, ctypes.c_void_p(home), -1, None, ctypes.c_uint64(source.PAGE),
            ctypes.c_uint64(pages), ctypes.c_uint64(KIND), ctypes.c_uint64(0), ctypes.c_uint64(1),
            0, 0,
        )  # fmt: skip
        library.stress_move(0, 0, ctypes.c_uint64(pages))
        for page in range(pages):
            library.stress_read(0, ctypes.c_uint64(page))
        if board.total("accesses") != pages or board.total("undecided"):
            raise AssertionError("not every page was judged")
        return board.wrong()


def touch_nothing() -> None:
    """A crash outside of what the judge looks at."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(build(Path(folder))))
    board = Board()
    library.stress_start(ctypes.c_void_p(ctypes.addressof(board.layout)), 0, ctypes.c_uint64(1), 0)
    ctypes.string_at(libc.mmap(0, source.PAGE, 0, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS, -1, 0))


def take_free_huge_pages(_: object) -> None:
    """Another user of huge pages: for some time has every free one, then lets go of them."""
    while True:
        until = time.monotonic() + _TURN_S
        taken: list[mmap.mmap] = []
        while time.monotonic() < until:
            with contextlib.suppress(OSError):  # none is free
                taken.append(
                    mmap.mmap(-1, 2 * MIB, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _HUGE)
                )
        for each in taken:
            each.close()
        time.sleep(_TURN_S)
