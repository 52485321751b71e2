"""Memory that the touching threads write and the referee reads: who does what, what went wrong.

The layout is that of `struct board` in toucher.c.  It is shared memory, so that the referee sees
a thread that hangs, whatever else in that process hangs with it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Sequence

from userfault.pager.core.states import NAMES

OPS = ("read", "write", "alias", "drop", "remove", "punch", "move", "unmap", "fork", "child")
PLANTS = ("none", "stale", "zeroed", "half", "lost", "sigbus")  # mistakes: see toucher.c
ZERO, BAD = 0, (1 << 64) - 1
_THREADS, _SLOW, _WRONG = 8, 4096, 64
_ENTRY = {63: "a page", 62: "an entry of swap or poison", 61: "(of a file)", 57: "(protected)"}


class Slow(ctypes.Structure):
    """An operation that took 0.5 ms or longer; times in ns of CLOCK_MONOTONIC."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("start", "end", "slot", "op")]
    start: int
    end: int
    slot: int
    op: int


class Wrong(ctypes.Structure):
    """A page that showed what it must not show."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "when", "slot", "page", "op", "found", "shown", "coming", "before", "last_op", "child",
            "planted", "seen", "before_seq", "seq", "address", "entry", "state",
        )
    ]  # fmt: skip
    when: int
    slot: int
    page: int
    op: int
    found: int
    shown: int
    coming: int
    before: int
    last_op: int
    child: int
    planted: int
    seen: int
    before_seq: int
    seq: int
    address: int
    entry: int
    state: int

    def __str__(self) -> str:
        who = " in a forked child" if self.child else ""
        return (
            f"slot {self.slot}, page {self.page}: {OPS[self.op]}{who} found {word(self.found)};"
            f" it showed {word(self.before)}, shows {word(self.shown)}, comes to"
            f" {word(self.coming)}; changed last by {OPS[self.last_op]}"
            f"; changes {self.before_seq} to {self.seq}"
            f"{'' if self.seen else ', not known to be filled'}"
            f"{' (planted)' if self.planted else ''}; {self._evidence}"
        )

    @property
    def _evidence(self) -> str:
        """What kernel and pager said of the page then (the record is the parent's)."""
        entry = [name for bit, name in _ENTRY.items() if self.entry >> bit & 1]
        state = NAMES[self.state] if self.state < len(NAMES) else "not known"
        return (
            f"at {self.address:#x} the page table has {' '.join(entry) or 'nothing'},"
            f" in the pager's record it is {state}"
        )


class Thread(ctypes.Structure):
    """One touching thread, or the child that it forked.

    `started`: when its operation began, 0 between operations.
    """

    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                "started", "tid", "slot", "page", "op", "accesses", "undecided", "faulted",
                "refused",
            )
        ),
        ("done", ctypes.c_uint64 * len(OPS)),
        ("slow_count", ctypes.c_uint64),
        ("slow", Slow * _SLOW),
    ]  # fmt: skip
    started: int
    tid: int
    slot: int
    page: int
    op: int
    accesses: int
    undecided: int
    faulted: int
    refused: int
    done: ctypes.Array[ctypes.c_uint64]
    slow_count: int
    slow: ctypes.Array[Slow]


class Layout(ctypes.Structure):
    """The whole."""

    _fields_ = [
        ("stop", ctypes.c_uint64),
        ("wrong_begun", ctypes.c_uint64),
        ("wrong_count", ctypes.c_uint64),
        ("wrong", Wrong * _WRONG),
        ("thread", Thread * (2 * _THREADS)),  # behind the threads: the child of each
    ]
    stop: int
    wrong_count: int
    wrong: ctypes.Array[Wrong]
    thread: ctypes.Array[Thread]


class Board:
    """The shared memory; `fd` is passed to the client."""

    def __init__(self, fd: int = -1) -> None:
        size = ctypes.sizeof(Layout)
        if fd < 0:
            fd = os.memfd_create("stress-board", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        self.fd = fd
        self._memory = mmap.mmap(fd, size)
        self.layout = Layout.from_buffer(self._memory)
        self._taken = [0] * (2 * _THREADS)

    def new_slow(self) -> list[tuple[int, int, int, int]]:
        """Slow operations since the last call: start, end, slot, operation."""
        found = []
        for index, thread in enumerate(self.layout.thread):
            count = thread.slow_count
            for at in range(max(self._taken[index], count - _SLOW), count):
                slow = thread.slow[at % _SLOW]
                found.append((slow.start, slow.end, slow.slot, slow.op))
            self._taken[index] = count
        return found

    def wrong(self, kills: Sequence[int] = ()) -> list[str]:
        """What was wrong, in words (the first 64), and how long after the last of `kills`."""
        found = []
        for wrong in self._whole():
            ago = [
                f", {(wrong.when - kill) / 1e6:.1f} ms after a kill"
                for kill in kills
                if kill < wrong.when
            ]
            found.append(f"{wrong}{ago[-1] if ago else ''}")
        return found

    def elsewhere(self) -> int:
        """How much of what was wrong (of the first 64) lies where no mistake was planted."""
        return sum(not wrong.planted for wrong in self._whole())

    def _whole(self) -> list[Wrong]:
        """What was recorded before the client was ended."""
        return [wrong for wrong in self.layout.wrong if wrong.when]

    def total(self, name: str) -> int:
        """The sum of a counter over all threads."""
        return sum(int(getattr(thread, name)) for thread in self.layout.thread)

    def done(self) -> dict[str, int]:
        """How many operations of each kind were done."""
        return {
            name: sum(int(thread.done[op]) for thread in self.layout.thread)
            for op, name in enumerate(OPS)
        }

    def close(self) -> None:
        """Close the descriptor; the memory goes with the object."""
        os.close(self.fd)


def word(value: int) -> str:
    """A page's word for people."""
    if value == BAD:
        return "SIGBUS"
    if value == ZERO:
        return "zeros"
    if value == signal.SIGSEGV:
        return "SIGSEGV"
    if value < 1 << 24:
        return f"no word of ours ({value})"
    version = value >> 24 & 0xFFFFFFFF
    what = f"version {version}" if version else "the source"
    return f"{what} (slot {(value >> 56) - 1}, page {(value & 0xFFFFFF) - 1})"
