"""`track()`: which pages of a memory were written since it was asked last."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from userfault.api.memory import Attribute, LazyMemory
from userfault.api.track_compare import Compare
from userfault.api.track_modes import Async, Messages, Way
from userfault.api.track_served import Served
from userfault.api.track_target import Target, target
from userfault.api.undisturbed import Tie, undisturbed
from userfault.kernel.errors import PagerError, Unavailable, UsageError
from userfault.kernel.numbers import one_of
from userfault.linux.unpatched import original
from userfault.linux.written import Run, joined

if TYPE_CHECKING:
    from pyroaring import BitMap

MODES = ("async", "messages", "compare")

_log = logging.getLogger("userfault")


class Written(msgspec.Struct, frozen=True):
    """Pages that were written.

    `runs`: (offset, length) in bytes of the memory that is tracked, in ascending order, of whole
    pages but at its ends.  Iterating gives the numbers of the pages, of `page_size` bytes each:
    page 0 is the one in which the first byte lies, `start` bytes into it.
    """

    runs: tuple[tuple[int, int], ...]
    page_size: int
    start: int = 0

    def __iter__(self) -> Iterator[int]:
        """The numbers of the pages."""
        for first, last in self._numbers():
            yield from range(first, last)

    def __len__(self) -> int:
        """How many pages."""
        return sum(last - first for first, last in self._numbers())

    def __bool__(self) -> bool:
        return bool(self.runs)

    @property
    def pages(self) -> BitMap:
        """The numbers of the pages as a set (pyroaring)."""
        from pyroaring import BitMap  # noqa: PLC0415  # whoever takes runs never pays for it

        found = BitMap()
        for first, last in self._numbers():
            found.add_range(first, last)
        return found

    def _numbers(self) -> Iterator[Run]:
        end = -1
        for offset, length in self.runs:
            first = max(end, (offset + self.start) // self.page_size)
            end = -(-(offset + self.start + length) // self.page_size)
            if first < end:
                yield first, end


def track(thing: Any, *, mode: str | None = None) -> Tracker:
    """Track the writes to the memory of `thing` from now on.

    `thing`: a `mmap.mmap` (of `lazy()`, too: one that is complete, or was made with `track=True`),
    a NumPy array, a bytearray, any object with a contiguous buffer.  It stays where it is for as
    long as it is tracked: it cannot be closed or resized.  `mode`: None for the best that memory
    and kernel have, else

    - "async": the kernel marks pages at their first write (6.7); for all memory and every user;
      of memory that a pager still fills what came in counts as well;
    - "messages": a process of ours answers each first write to a page, and the thread waits for
      it (5.14, shared memory 5.19; needs full rights, see docs/privileges.md);
    - "compare": all pages are read at each call, and digests of them compared.

    Where a worse one is taken, the logger `userfault` gets a warning with the cause, which is
    `Tracker.why`, too.

    Raises UsageError for what cannot be tracked (memory that a pager still fills among it), and
    where a `mode` was asked for what that raises: Unavailable (FeatureMissing, OpenRefused,
    RegistrationRefused), PagerError.

    >>> memory = bytearray(1 << 20)
    >>> with track(memory) as tracker:
    ...     memory[500_000] = 1
    ...     len(tracker.written())
    1
    """
    if mode is not None:
        one_of("mode", mode, MODES)
    served = thing if isinstance(thing, LazyMemory) and not thing._parts.finished else None
    if served is not None and (not served._parts.tracked or mode not in (None, "async")):
        raise UsageError(
            "cannot track memory that a pager still fills",
            cause="a mapping has one userfaultfd, and that is the pager's until all pages are in",
            cure="complete() it first, or make it by lazy(..., track=True)",
        )
    made = undisturbed(lambda: Tracker(target(thing), mode, served))
    if made.why and mode is None and made._held.way is not None:
        _log.warning("tracks writes in mode %r: %s", made.mode, made.why)
    return made


class Tracker:
    """Tells which pages were written.  Made by `track()`; safe in several threads.

    `mode`: how they are seen.  `why`: why not in a better way, or nothing.
    """

    def __init__(self, where: Target, mode: str | None, served: LazyMemory | None) -> None:
        self._held = _Held(where)
        try:
            if served is None:
                self._held.way, self.why = _way(where, mode)
            else:
                self._held.way, self.why = Served(where.first, where.last, served._parts), ""
            self._held.look_at_edges()
        except BaseException:
            self._held.end(gone=True)
            raise
        self.mode: str = self._held.way.name if self._held.way else "compare"
        self.page_size = where.page_size
        self._first_to_go = Attribute()
        self._tie = Tie(self._first_to_go, self._held)

    def written(self) -> Written:
        """What was written since the last call, or since `track()`.

        A write that had ended before the call is in it.  One of another thread that is under way is
        in this answer or in the next, never in none.  (In mode "compare" what counts is that the
        bytes differ.)  Pages that were dropped (MADV_DONTNEED) count as written.

        Raises TrackingLost where writes were not seen for a while (something else was mapped there,
        a process of ours was killed), UsageError once it is closed, PagerError in a forked child.
        """
        return self._held.written()

    def close(self) -> None:
        """Track no more.  Idempotent."""
        undisturbed(self._tie.end)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _way(where: Target, mode: str | None) -> tuple[Way | None, str]:
    """How the whole pages are seen, and why not better."""
    if where.first >= where.last:
        return None, "it has no whole page of its own"
    why = []
    for name in MODES if mode is None else (mode,):
        try:
            way = _MAKE[name](where)
        except (Unavailable, PagerError) as error:
            if mode is not None or name == MODES[-1]:
                raise
            why.append(f"{name}: {error.what} ({error.cause})")
            continue
        return way, "; ".join(why)
    raise AssertionError


_MAKE: dict[str, Callable[[Target], Way]] = {
    "async": lambda where: Async(where.first, where.last),
    "messages": lambda where: Messages(
        where.first, where.last, where.page_size, shared=not where.private
    ),
    "compare": lambda where: Compare(where.first, where.last),
}


class _Held:
    """What is to be let go of when a tracker goes."""

    def __init__(self, where: Target) -> None:
        self.way: Way | None = None
        self.where = where
        self._owner = os.getpid()
        self._lock = original("threading", "Lock")()
        self._edges: dict[tuple[int, int], bytes] = {}
        self._closed = False

    def look_at_edges(self) -> list[Run]:
        """Those that are not as they were."""
        changed = []
        for start, end in self.where.edges:
            now = ctypes.string_at(start, end - start)
            if self._edges.get((start, end), now) != now:
                changed.append((start, end))
            self._edges[start, end] = now
        return changed

    def written(self) -> Written:
        where = self.where
        if os.getpid() != self._owner:
            raise PagerError(
                "the tracked memory belongs to another process",
                cause="this process was forked from the one that tracks it",
                cure="ask there; or call track() here",
            )
        with self._lock:
            if self._closed:
                raise UsageError("written()", cause="the tracker is closed", cure="track() anew")
            runs = joined([] if self.way is None else self.way.take(), self.look_at_edges())
        end = where.address + where.length
        told = tuple((s - where.address, min(e, end) - s) for s, e in runs)
        return Written(told, where.page_size, where.address % where.page_size)

    def end(self, *, gone: bool) -> None:
        """Let go of everything."""
        del gone
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self.way is not None:
                self.way.close()
            self.where.pinned.release()

    def forked(self) -> None:
        """In a child of fork(2), which has the memory, and none of its protection."""
        self._closed = True
        if self.way is not None:
            self.way.forked()
