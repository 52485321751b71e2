"""The client that is served: it makes lazy memory again and again, its threads touch it.

Started by the referee: `argv` is a socket, the board, and a file with the `Job`.  It maps each slot
anew every now and then, and answers what the referee asks: the pager's processes, a page's state.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import msgspec

import userfault
from stress import source
from stress.board import PLANTS, Board
from userfault import Policy, lazy
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import memory as named_memory
from userfault.linux.libc import Pinned
from userfault.linux.parent import end_with_parent
from userfault.pager.core.states import NAMES

_POOL_PAUSE_S = 0.2


class Slot(msgspec.Struct, frozen=True):
    """What one slot of toucher.c is filled with again and again.

    `pages` of its memory type's size; `lasts_s`: how long one mapping is touched.
    """

    index: int
    memory: str
    pages: int
    path: str
    function: bool = False
    lasts_s: float = 1.5
    spill: str | None = None  # a folder

    @property
    def type(self) -> str:
        """The memory type, of a name like "shmem+budget"."""
        return self.memory.partition("+")[0]

    @property
    def budget(self) -> int:
        """0: all of it may be in; 1: pages that nobody wrote may go; 2: others, too."""
        return 2 if self.spill else int("+" in self.memory)

    @property
    def page_size(self) -> int:
        return named_memory(self.type).page_size

    @property
    def kind(self) -> int:
        return self.index + 1


class Job(msgspec.Struct, frozen=True):
    """What the referee wants."""

    slots: list[Slot]
    threads: int
    seed: int
    forks: bool
    library: str
    plant: str = PLANTS[0]


class Client:
    """One pager, its mappings, the threads that touch them."""

    def __init__(self, job: Job, board: Board) -> None:
        self._job = job
        self._random = random.Random(job.seed)
        self._library = ctypes.CDLL(job.library)
        self._board = board
        self._pager = userfault.Pager()
        self._mapped: dict[int, userfault.LazyMemory] = {}
        self._ends: dict[int, float] = {}
        self._mappings = 0
        if self._library.stress_board_size() != ctypes.sizeof(board.layout):
            raise AssertionError("board.py and toucher.c differ")

    def run(self, channel: socket.socket) -> None:
        """Map, touch, answer, until the referee says stop or is gone."""
        for slot in self._job.slots:
            self._open(slot)
        where = ctypes.c_void_p(ctypes.addressof(self._board.layout))
        self._library.stress_start(
            where,
            self._job.threads,
            ctypes.c_uint64(self._job.seed | 1),
            PLANTS.index(self._job.plant),
        )
        while True:
            left = max(min(self._ends.values()) - time.monotonic(), 0)
            if self._library.stress_wait(channel.fileno(), int(left * 1000) + 1):
                asked = channel.recv(100).decode().split()
                if asked in ([], ["stop"]):
                    break
                answer = self._page(*map(int, asked[1:])) if asked[1:] else self._answer()
                channel.send(json.dumps(answer).encode())
            for slot in self._job.slots:
                if time.monotonic() >= self._ends[slot.index]:
                    self._close(slot)
                    self._open(slot)
        self._library.stress_join()
        for slot in self._job.slots:
            self._close(slot)
        channel.send(json.dumps({"takeovers": self._pager.takeovers}).encode())
        self._pager.close()

    def _answer(self) -> dict[str, object]:
        return {
            "processes": self._pager.processes(),
            "takeovers": self._pager.takeovers,
            "state_bytes": sum(slot.pages for slot in self._job.slots),
            "mappings": self._mappings,
        }

    def _page(self, index: int, page: int) -> dict[str, object]:
        """What the pager's record says of a page whose thread hangs."""
        states = self._mapped[index].page_states
        return {"state": NAMES[states[page]], **self._answer()}

    def _open(self, slot: Slot) -> None:
        background = self._random.random() < 0.4
        policy = Policy(
            background=background,
            chunk_bytes=max(slot.page_size, 16 << 10),
            fetches=1 if slot.function else 4,
            resident_bytes=slot.pages * slot.page_size // 8 if slot.budget else 0,
            spill=slot.spill,
        )
        length = slot.pages * slot.page_size
        made: object = slot.path
        if slot.function:
            made = userfault.function(source.failing, length, kind=slot.kind, marks=slot.path)
        try:
            mapped = lazy(
                made, memory=slot.type, writable=True, policy=policy, pager=self._pager,
                fork=self._job.forks,
            )  # fmt: skip
        except MemoryUnavailable:  # huge pages are the whole machine's: others have ours now
            self._ends[slot.index] = time.monotonic() + _POOL_PAUSE_S
            return
        lasts = slot.lasts_s * (0.25 if background else 1)
        self._mappings += 1
        self._mapped[slot.index] = mapped
        self._ends[slot.index] = time.monotonic() + lasts
        self._library.stress_open(
            slot.index,
            ctypes.c_void_p(mapped.address),
            mapped._parts.recipe.fd,
            ctypes.c_void_p(_address_of(mapped.page_states)),
            ctypes.c_uint64(slot.page_size),
            ctypes.c_uint64(slot.pages),
            ctypes.c_uint64(slot.kind),
            ctypes.c_uint64(source.BAD_EVERY if slot.function else 0),
            ctypes.c_uint64(int(lasts * 1e9)),
            int(self._job.forks),
            slot.budget,
        )

    def _close(self, slot: Slot) -> None:
        mapped = self._mapped.pop(slot.index, None)
        if mapped is None:
            return
        if not slot.function and not slot.budget and self._random.random() < 0.3:
            mapped.complete()
        self._library.stress_shut(slot.index)
        self._library.stress_clear(slot.index)
        mapped.close()


def _address_of(states: mmap.mmap) -> int:
    with Pinned(states) as pinned:
        return pinned.address


def main() -> None:
    """The process."""
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    job = msgspec.json.decode(Path(sys.argv[3]).read_bytes(), type=Job)
    with contextlib.closing(Board(int(sys.argv[2]))) as board:
        Client(job, board).run(channel)


if __name__ == "__main__":
    # Whatever happens, end at once: an interpreter that tidies up would unmap memory that threads
    # still touch.
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
