"""Memory that outlives a worker: page states and journal, with a point at each store.

Nothing but its effects on what outlives it tells where a worker was killed.  So a point before and
after each of them stands for every instruction.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, overload

from userfault.model.tasks.recorder import RECORD
from userfault.pager.drivers.record.journal import Journal

Point = Callable[[str], None]


class States:
    """One byte a page, in memory that the processes of the pager share."""

    def __init__(self, held: bytes) -> None:
        self.held = bytearray(held)


class SeenStates:
    """The same, mapped by a worker, which may be killed in the middle of a write."""

    def __init__(self, states: States, point: Point) -> None:
        self._held = states.held
        self._point = point

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
                self._point("states")
                self._held[page] = state
        else:
            assert isinstance(value, int)
            self._point("states")
            self._held[at] = value
        self._point("states")

    def find(self, sub: bytes, start: int = 0, end: int | None = None, /) -> int:
        return self._held.find(sub, start, end)


class SeenMarks(SeenStates):
    """The marks of a shared copy, which workers of several pagers look at and set."""

    def __getitem__(self, at: Any, /) -> Any:
        if RECORD.on:
            RECORD.reads.add(("marks", id(self._held)))
        return super().__getitem__(at)

    def __setitem__(self, at: Any, value: Any, /) -> None:
        if RECORD.on:
            RECORD.writes.add(("marks", id(self._held)))
        super().__setitem__(at, value)

    def __len__(self) -> int:
        return len(self._held)


class _Stored:
    """A view of the journal whose stores are points."""

    def __init__(self, view: memoryview, point: Point) -> None:
        self._view = view
        self._point = point

    def __getitem__(self, at: Any, /) -> Any:
        return self._view[at]

    def __setitem__(self, at: Any, value: Any, /) -> None:
        self._point("journal")
        self._view[at] = value
        self._point("journal")

    def release(self) -> None:
        self._view.release()


class ModelJournal(Journal):
    """The journal of a family that serves a modelled world, as one worker maps it."""

    words: Any
    _results: Any

    def __init__(self, fd: int, point: Point) -> None:
        super().__init__(os.dup(fd))
        self.words = _Stored(self.words, point)
        self._results = _Stored(self._results, point)
        self.many.word = _Stored(self.many.word, point)  # type: ignore[assignment]
        self._point = point

    def take_up(self) -> None:
        """Whatever a worker of the model has mapped is in memory."""
        self._head = self.words[2]  # Word.HEAD

    def batch_done(self, size: int) -> None:
        self._point("journal")
        super().batch_done(size)  # zeros, a point, the new head

    def copying(
        self,
        context: int,
        kind: int,
        page: int,
        count: int,
        dst: int,
        src: int,
        length: int,
        mode: int = 0,
    ) -> None:
        super().copying(context, kind, page, count, dst, src, length, mode)
        self._point("journal")

    def filling(
        self, context: int, kind: int, page: int, count: int, start: int, length: int, mode: int = 0
    ) -> None:
        super().filling(context, kind, page, count, start, length, mode)
        self._point("journal")
