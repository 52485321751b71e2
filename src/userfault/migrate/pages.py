"""The pages of all memories as one row, and which of them are still to be sent."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyroaring import BitMap

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.migrate.frames import PIECE, Runs


class Row:
    """Memories one behind the other, for reading.  Raises UsageError for what is no memory.

    Their buffers are held until `close()`.
    """

    def __init__(self, memories: Sequence[Any]) -> None:
        self._views: list[memoryview] = []
        try:
            for memory in memories:
                self._views.append(memoryview(memory).cast("B"))
        except (TypeError, ValueError) as error:
            self.close()
            raise UsageError(
                f"a {type(memory).__name__} as memory that is to move",
                cause=str(error),
                cure="give what lazy() returns, a mmap, or another buffer of whole pages",
            ) from None
        if not self._views or any(len(view) % PAGE or not len(view) for view in self._views):
            self.close()
            raise UsageError(
                "memory that is to move",
                cause=f"there is none, or it is no whole pages of {PAGE} bytes",
                cure="give memory of whole pages",
            )
        self.lengths = tuple(len(view) for view in self._views)
        ends = list(itertools.accumulate(length // PAGE for length in self.lengths))
        self.firsts = [0, *ends[:-1]]
        self.pages = ends[-1]

    def read(self, first: int, count: int) -> bytes:
        """The bytes of pages that lie in a row."""
        found = []
        while count:
            number = bisect.bisect_right(self.firsts, first) - 1
            at = (first - self.firsts[number]) * PAGE
            size = min(count * PAGE, self.lengths[number] - at)
            found.append(bytes(self._views[number][at : at + size]))
            first, count = first + size // PAGE, count - size // PAGE
        return found[0] if len(found) == 1 else b"".join(found)

    def close(self) -> None:
        """Let go of the buffers."""
        for view in self._views:
            view.release()
        self._views = []


class Outgoing:
    """What is to be sent.

    `todo`: pages whose latest bytes were not sent.  `there`: pages that the receiver has, current
    or not, if nothing is lost on the way.  Of these, `newer` are pages that it had before, and was
    sent anew on this connection: which bytes it has nobody knows once that breaks.
    """

    def __init__(self, pages: int) -> None:
        self.todo, self.there, self.newer = BitMap(), BitMap(), BitMap()
        self.todo.add_range(0, pages)
        self._cursor = 0

    def next(self) -> tuple[int, int] | None:
        """The next run that is to be sent."""
        run = run_from(self.todo, self._cursor)
        if run is not None:
            self._cursor = sum(run)
        return run

    def sending(self, first: int, count: int) -> None:
        """Their bytes of this moment, or of a later one, are about to be sent."""
        self.todo.remove_range(first, first + count)
        self.newer |= self.there & BitMap(range(first, first + count))
        self.there.add_range(first, first + count)

    def stale(self) -> BitMap:
        """What the receiver has to forget: `there` is what it has then."""
        stale = self.there & self.todo
        self.there -= stale
        return stale

    def reconnected(self, have: BitMap, *, newer: bool) -> None:
        """A new connection, on which it says what it has.  `newer`: that may be of old bytes."""
        self.todo |= self.there - have
        if newer:
            self.todo |= self.newer
        self.newer = BitMap()
        self.there = have


def run_from(pages: BitMap, cursor: int) -> tuple[int, int] | None:
    """The first run of a set at or behind `cursor`, else of all; of a piece at the most."""
    if not pages:
        return None
    first = pages.next_set_bit(cursor if cursor <= pages.max() else 0)
    if pages.contains_range(first, first + PIECE):
        return first, PIECE
    count = 1
    while count < PIECE and first + count in pages:
        count += 1
    return first, count


def runs_of(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """A set in ascending order as runs."""
    first = end = -1
    for page in pages:
        if page != end:
            if end > first:
                yield first, end - first
            first = page
        end = page + 1
    if end > first:
        yield first, end - first


def set_of(runs: Runs) -> BitMap:
    """Runs as a set."""
    found = BitMap()
    for first, count in runs:
        found.add_range(first, first + count)
    return found
