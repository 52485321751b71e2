"""Threads that touch memory in every way a program can, and compare what they find.

Python threads: each touch is a call of the C library, which lets go of the GIL, so a thread that
waits for its page holds up nobody.  A duration counts as a fault's where the page tables had no
page before the touch, and the thread slept in it: what the handler had filled, and what the kernel
gives by itself where nothing is registered any more, is left out.  (The kernel's count of major
faults does not tell: it has none of those that were taken under the lock of the mapping alone;
measured on 6.18.)
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from userfault.client.board import SLOTS, Board, Step
from userfault.client.expected import STAMP, Expected
from userfault.client.memory import Image
from userfault.client.orders import order
from userfault.client.results import Result, Wrong, latency
from userfault.linux import libc
from userfault.linux.pagemap import Pagemap
from userfault.uapi import mman

MOST_THREADS = SLOTS - 2  # the main thread has a slot, and one that works for the client
_LOCKS = 64
_SWITCH_S = 0.0002  # whoever was woken gets the GIL soon: it is part of what is measured

_libc = ctypes.CDLL(None, use_errno=True)
_memmove = _libc.memmove
_memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memmove.restype = ctypes.c_void_p
_pwrite = _libc.pwrite
_pread = _libc.pread
for _call in (_pwrite, _pread):
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
    _call.restype = ctypes.c_ssize_t


class Walk(msgspec.Struct, frozen=True):
    """How memory is touched.  `balloon`, `write` and `kernel` are chances, in 100: of giving a page
    back, of writing to it, of having a system call touch it."""

    pattern: str = "random"
    threads: int = 1
    pages: int = 0  # touch so many; 0: all
    stride: int = 8
    rounds: int = 1
    balloon: int = 0
    write: int = 0
    kernel: int = 0
    flood: int = 0  # at the end, so many ranges are given back at once
    seed: int = 1


class Walker:
    """Walks over the memory that `expected` tells of.

    `last`: pages that must not be touched before `before_check` has been called, after the walk.
    `give_back`: how memory (address, bytes) is given back.
    """

    def __init__(
        self,
        walk: Walk,
        expected: Expected,
        image: Image,
        board: Board,
        *,
        last: int = 0,
        before_check: Callable[[], None] | None = None,
        give_back: Callable[[int, int], None] | None = None,
    ) -> None:
        self._giving_back = give_back or _dont_need
        self._walk = walk
        self._expected = expected
        self._image = image
        self._board = board
        self._reach = expected.pages - last
        self._before_check = before_check
        self._seen = bytearray(expected.pages)
        self._changes = bool(walk.balloon or walk.write)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._counting = threading.Lock()
        self.durations = array.array("Q")  # ns, of the faults that waited
        self._failed: list[BaseException] = []
        self.result = Result(pages=expected.pages)

    @property
    def steps(self) -> int:
        """How many there will be, about."""
        count = min(self._walk.pages or self._reach, self._reach)
        return 2 * count * self._walk.threads * self._walk.rounds + count

    def run(self) -> Result:
        """Walk to the end.  What has gone wrong in a thread is raised here."""
        sys.setswitchinterval(_SWITCH_S)
        began = time.monotonic()
        threads = [
            threading.Thread(target=self._guarded, args=(number,))
            for number in range(1, self._walk.threads + 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]
        toucher = _Toucher(self._board, 0, self._walk.seed)
        with contextlib.closing(toucher):
            if self._before_check is not None:
                self._before_check()
                self._seen[self._reach :] = b"\1" * (self._expected.pages - self._reach)
            self._flood(toucher)
            for page in range(self._expected.pages):
                if self._seen[page]:
                    self._check(toucher, page)
            self._collect(toucher)
        self.result.seconds = round(time.monotonic() - began, 3)
        self.result.latency = latency(self.durations)
        return self.result

    def _guarded(self, number: int) -> None:
        try:
            toucher = _Toucher(self._board, number, self._walk.seed + number)
            with contextlib.closing(toucher):
                for round_ in range(self._walk.rounds):
                    self._walks(toucher, round_)
                self._collect(toucher)
        except BaseException as error:  # it is raised again in the main thread
            self._failed.append(error)

    def _walks(self, toucher: _Toucher, round_: int) -> None:
        walk = self._walk
        # Threads that go in order go the same way: they meet at the same pages.
        seed = walk.seed + round_ * MOST_THREADS + (toucher.slot if walk.pages == 0 else 0)
        numbers = order(walk.pattern, self._reach, walk.stride, seed)
        for page in numbers[: walk.pages or None]:
            with self._locks[page % _LOCKS] if self._changes else contextlib.nullcontext():
                self._touch(toucher, page)

    def _touch(self, toucher: _Toucher, page: int) -> None:
        """In one of the ways, and then compare it; then change it perhaps."""
        expected, walk, draw = self._expected, self._walk, toucher.draw
        address = expected.address(page)
        self._seen[page] = 1
        if draw.randrange(100) < walk.kernel:
            self._by_kernel(toucher, page, address)
        elif self._changes and draw.randrange(100) < walk.write // 2:
            self._write(toucher, page, address)  # before it was read: the fault is a write's
        else:
            # Any address, not the page's first one alone; and bytes over the edge of a word.
            at = draw.randrange(expected.page_size - STAMP)
            toucher.timed(Step.READ, address + at, _memmove, toucher.room, address + at, STAMP)
        self._check(toucher, page)
        if draw.randrange(100) < walk.balloon:
            self._remove(toucher, page, address)
        if self._changes and draw.randrange(100) < walk.write:
            self._write(toucher, page, address)

    def _by_kernel(self, toucher: _Toucher, page: int, address: int) -> None:
        """A system call copies from the page, or the image's own bytes into it."""
        size = min(self._expected.page_size, self._image.bytes - page * self._expected.page_size)
        toucher.by_kernel += 1
        if toucher.draw.randrange(2) and self._expected.is_images(page) and size > 0:
            # One thread's page: where others read without a lock they see the same bytes.
            offset = page * self._expected.page_size
            done = toucher.timed(
                Step.KERNEL_WRITE, address, _pread, self._image.fd, address, size, offset
            )
        else:
            size = self._expected.page_size
            done = toucher.timed(Step.KERNEL_READ, address, _pwrite, toucher.file, address, size, 0)
        if done != size:
            code = ctypes.get_errno()
            with self._counting:
                self.result.add(
                    Wrong(
                        address,
                        page * self._expected.page_size,
                        "",
                        "",
                        f"a system call on the page did {done} of {size} bytes:"
                        f" {os.strerror(code) if done == -1 else 'no error'}",
                    )
                )

    def _write(self, toucher: _Toucher, page: int, address: int) -> None:
        at = self._expected.stamped_at(page)
        if at is None:
            at = toucher.draw.randrange(self._expected.page_size - STAMP)
        content = self._expected.stamp(page, at)
        ctypes.memmove(toucher.room, content, STAMP)
        toucher.timed(Step.WRITE, address + at, _memmove, address + at, toucher.room, STAMP)
        toucher.written += 1

    def _remove(self, toucher: _Toucher, page: int, address: int) -> None:
        """Give it back, touch it at once, and find zeros."""
        self._give_back(toucher, address, self._expected.page_size)
        self._expected.removed(page)
        toucher.timed(Step.READ, address, _memmove, toucher.room, address, STAMP)
        self._check(toucher, page)

    def _give_back(self, toucher: _Toucher, address: int, length: int) -> None:
        """The kernel waits until the handler has read the event."""
        toucher.removed += 1
        self._board.begin(toucher.slot, Step.REMOVE, address)
        self._giving_back(address, length)
        self._board.end(toucher.slot)

    def _flood(self, toucher: _Toucher) -> None:
        """Ranges without a pause, as a guest that means no good can have given back."""
        expected, size = self._expected, self._expected.page_size
        for _ in range(self._walk.flood):
            page = toucher.draw.randrange(expected.pages)
            region = expected.region(page)
            left = (region.offset + region.size) // size - page
            count = min(toucher.draw.randint(1, 64), left)
            self._give_back(toucher, expected.address(page), count * size)
            for each in range(page, page + count):
                expected.removed(each)
                self._seen[each] = 1
            if size > resource.getpagesize():
                # A part of a huge page frees nothing: the page keeps its bytes.
                other = toucher.draw.randrange(self._reach)
                self._give_back(toucher, expected.address(other), size // 2)
                self._seen[other] = 1

    def _check(self, toucher: _Toucher, page: int) -> None:
        self._board.begin(toucher.slot, Step.CHECK, self._expected.address(page))
        wrong = self._expected.check(page)
        self._board.end(toucher.slot)
        toucher.checked += 1
        if wrong is not None:
            with self._counting:
                self.result.add(wrong)

    def _collect(self, toucher: _Toucher) -> None:
        with self._counting:
            result = self.result
            result.touches += toucher.touches
            result.checked += toucher.checked
            result.removed += toucher.removed
            result.written += toucher.written
            result.by_kernel += toucher.by_kernel
            self.durations.extend(toucher.durations)


class _Toucher:
    """One thread: its room, its chance, and what it has counted."""

    def __init__(self, board: Board, slot: int, seed: int) -> None:
        self.slot = slot
        self.draw = random.Random(seed)
        self.file = os.memfd_create("touched")
        self.durations = array.array("Q")
        self.touches = self.checked = self.removed = self.written = self.by_kernel = 0
        self._room = ctypes.create_string_buffer(STAMP)
        self.room = ctypes.addressof(self._room)
        self._board = board
        self._pagemap = Pagemap()

    def close(self) -> None:
        self._pagemap.close()
        os.close(self.file)

    def timed(
        self, step: Step, address: int, call: Callable[..., object], *arguments: int
    ) -> object:
        """Call it, as this step; if it had to wait, for how long."""
        self.touches += 1
        self._board.begin(self.slot, step, address)
        missing = not self._pagemap.there(address)
        slept = _sleeps() if missing else 0
        began = time.perf_counter_ns()
        done = call(*arguments)
        took = time.perf_counter_ns() - began
        if missing and _sleeps() != slept:
            self.durations.append(took)
        self._board.end(self.slot)
        return done


def _dont_need(address: int, length: int) -> None:
    libc.madvise(address, length, mman.MADV_DONTNEED)


def _sleeps() -> int:
    """How often this thread has slept so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
