"""What each thread of a client is doing, in memory that its parent sees.

A thread whose fault is not answered sleeps in the kernel, and can tell nobody.  So it says before
each step what it is about to do, and the parent looks how long ago that was.
"""

from __future__ import annotations

import enum
import mmap
import os
import time

import msgspec

SLOTS = 257  # the main thread, and 256 that touch
_WORDS = 4  # a slot: since when (CLOCK_MONOTONIC, ns; 0: nothing), which step, where, how many done
_BYTES = SLOTS * _WORDS * 8


class Step(enum.IntEnum):
    """What may wait for the handler."""

    CONNECT = 1
    SEND = 2
    READ = 3
    WRITE = 4
    KERNEL_READ = 5
    KERNEL_WRITE = 6
    REMOVE = 7
    CHECK = 8
    ANSWER = 9
    FORK = 10
    REMAP = 11


WORDS = {
    Step.CONNECT: "connecting",
    Step.SEND: "sending the message",
    Step.READ: "reading",
    Step.WRITE: "writing",
    Step.KERNEL_READ: "a system call that reads",
    Step.KERNEL_WRITE: "a system call that writes",
    Step.REMOVE: "giving back",
    Step.CHECK: "reading again",
    Step.ANSWER: "waiting for the handler's next message",
    Step.FORK: "forking",
    Step.REMAP: "moving memory",
}


class Waiting(msgspec.Struct, frozen=True):
    """A step that has not ended: which thread (0: the main one), since how many seconds, where."""

    thread: int
    step: str
    address: int
    age_s: float


class Board:
    """`fd` is a memfd that the child inherits.  `first`: the slot that is called 0 here."""

    def __init__(self, fd: int, first: int = 0) -> None:
        self.fd = fd
        self._first = first
        self._memory = mmap.mmap(fd, _BYTES)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def made(cls) -> Board:
        """A new one."""
        fd = os.memfd_create("userfault-client")
        os.ftruncate(fd, _BYTES)
        return cls(fd)

    def part(self, first: int) -> Board:
        """The same from that slot on: for a process that knows only of its own threads."""
        return Board(self.fd, self._first + first)

    def close(self) -> None:
        """Let go of it."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def begin(self, slot: int, step: Step, address: int = 0) -> None:
        """The thread is about to do this.  The time is written last: with it, it counts."""
        at = (self._first + slot) * _WORDS
        self._words[at + 1] = step
        self._words[at + 2] = address
        self._words[at] = time.monotonic_ns()

    def end(self, slot: int) -> None:
        """It has done that."""
        at = (self._first + slot) * _WORDS
        self._words[at] = 0
        self._words[at + 3] += 1

    def done(self) -> int:
        """Steps that have ended, of all threads."""
        return sum(self._words[3::_WORDS])

    def longest(self) -> Waiting | None:
        """Who has been at one step for the longest time."""
        now, found = time.monotonic_ns(), []
        for slot in range(SLOTS):
            since, step, address, _ = self._words[slot * _WORDS : (slot + 1) * _WORDS]
            if since:
                age = max(now - since, 0) / 1e9
                found.append(Waiting(slot, WORDS[Step(step)], address, age))
        return max(found, key=lambda each: each.age_s, default=None)
