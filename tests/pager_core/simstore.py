"""What outlives a killed worker, and the fuse that kills it between any two of its effects.

Nothing but effects on what outlives it tells where a worker was killed: writes to shared memory and
calls of the kernel.  So a point before and after each of them stands for every instruction.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import overload

import msgspec

from pager_core.simparts import Event, Fault, Mm
from userfault.pager.core.actions import COPY
from userfault.pager.core.recorded import FillRecord, Snapshot

NOTHING = Snapshot(batch=0, applied=0, contexts=())
NO_FILL = FillRecord(context=0, kind=COPY, page=-1, count=0, done=0)


class Killed(Exception):  # noqa: N818  # it says what it is
    """SIGKILL has ended the worker."""


class Fuse:
    """Kills the worker after so many points, and its successor after so many more.

    `filled`: or else after so many fills, before their result is recorded.
    """

    def __init__(self) -> None:
        self.lengths: deque[int] = deque()
        self.filled = 0

    def point(self) -> None:
        """The worker may be killed here."""
        if self.lengths:
            self.lengths[0] -= 1
            if self.lengths[0] < 0:
                self.lengths.popleft()
                raise Killed

    def fill_made(self) -> None:
        """A point that the kernel has just made a fill at."""
        self.point()
        if self.filled:
            self.filled -= 1
            if not self.filled:
                raise Killed


class States:
    """One byte a page in shared memory: a worker may be killed in the middle of a write."""

    def __init__(self, held: bytes, fuse: Fuse) -> None:
        self._held = bytearray(held)
        self._fuse = fuse

    @overload
    def __getitem__(self, at: int, /) -> int: ...
    @overload
    def __getitem__(self, at: slice, /) -> bytes: ...
    def __getitem__(self, at: int | slice, /) -> int | bytes:
        return bytes(self._held[at]) if isinstance(at, slice) else self._held[at]

    @overload
    def __setitem__(self, at: int, value: int, /) -> None: ...
    @overload
    def __setitem__(self, at: slice, value: bytes, /) -> None: ...
    def __setitem__(self, at: int | slice, value: int | bytes, /) -> None:
        if isinstance(at, slice):
            assert isinstance(value, bytes)
            for page, state in zip(range(len(self._held))[at], value, strict=True):
                self._fuse.point()
                self._held[page] = state
        else:
            assert isinstance(value, int)
            self._fuse.point()
            self._held[at] = value
        self._fuse.point()

    def find(self, sub: bytes, start: int = 0, end: int | None = None, /) -> int:
        return self._held.find(sub, start, end)


@dataclass(eq=False)
class Store:
    """The shared memory, and the descriptors that somebody else holds too.

    `batch`, `reader`, `messages`: the batch read last, the number of the context that it was read
    from, and what the kernel put there.
    """

    fuse: Fuse = field(default_factory=Fuse)
    states: dict[int, States] = field(default_factory=dict)
    owners: dict[int, Mm] = field(default_factory=dict)  # context -> its userfaultfd
    snapshot: Snapshot = NOTHING
    batch: int = 0
    reader: int = 0
    messages: list[Fault | Event] = field(default_factory=list)
    fill: FillRecord = NO_FILL

    @property
    def events(self) -> list[Event]:
        """The events of the batch read last."""
        return [message for message in self.messages if isinstance(message, Event)]

    def announce(self, reader: int) -> None:
        """A batch of this context is about to be read, over a ring without messages."""
        self.fuse.point()
        self.messages = []
        self.fuse.point()
        self.batch += 1
        self.fuse.point()
        self.reader = reader
        self.fuse.point()

    def arm(self, record: FillRecord, *, reset: bool = True) -> None:
        """The arguments of the next fill: first the result of the last one goes."""
        self.fuse.point()
        if reset:
            self.result(0)
        self.fill = msgspec.structs.replace(record, done=self.fill.done)
        self.fuse.point()

    def result(self, done: int) -> None:
        """What the kernel says, in bytes."""
        self.fill = msgspec.structs.replace(self.fill, done=done)
        self.fuse.point()
