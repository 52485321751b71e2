"""Memory of this program as an input of `pack`: what was written since it was packed last, as it
is at one moment."""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from userfault.api.point import Stopper
from userfault.api.track import track
from userfault.api.track_modes import Way, of_ourselves
from userfault.kernel.errors import SourceError
from userfault.linux.pagemap import Pagemap
from userfault.linux.present import present
from userfault.linux.written import Run, joined
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region
from userfault.snapshot.inputs.protocol import Run as PageRun

_SMALL = 4 << 20  # bytes that may be copied while everybody stands still
_ROUNDS = 6
_PIECE = 64 * PAGE


class Part:
    """One piece of memory that is tracked, from page `first` of the image on.

    `skew`: how many bytes into its first page it begins.  `dirty`: pages, by their addresses, that
    may have other bytes than in the base; None: all of them.
    """

    def __init__(self, thing: Any, mode: str | None) -> None:
        self.tracker = track(thing, mode=mode)
        where = self.tracker._held.where
        self.where = where
        self.skew = where.address % PAGE
        self.start = where.address - self.skew
        self.pages = -(-(self.skew + where.length) // PAGE)
        self.end = self.start + self.pages * PAGE
        self.first = 0
        self.dirty: list[Run] | None = None

    @property
    def way(self) -> Way | None:
        """How its whole pages are seen."""
        return self.tracker._held.way

    @property
    def edges(self) -> list[Run]:
        """Pages that are looked at by their bytes: they are copied each time."""
        return joined([(s // PAGE * PAGE, -(-e // PAGE) * PAGE) for s, e in self.where.edges])

    @property
    def compared(self) -> bool:
        """Whether the kernel does not tell what is written."""
        return self.way is not None and self.way.name == "compare"

    def take(self) -> list[Run]:
        """What was written since the last time; from now on it is dirty."""
        if self.way is None or self.compared:
            return []
        new = [(max(s, self.start), min(e, self.end)) for s, e in self.way.take()]
        self.add(new)
        return new

    def add(self, runs: list[Run]) -> None:
        """More that is dirty."""
        if self.dirty is not None:
            self.dirty = joined(self.dirty, runs)

    def told(self) -> Iterator[tuple[int, int, Holds]]:
        """All its pages by addresses, in order: what is to be read and what is as in the base."""
        if self.compared:  # all of it is copied at the end
            yield self.start, self.end, Holds.ZERO
            return
        if self.dirty is None:
            yield from self._all()
            return
        at = self.start
        for start, end in joined(self.dirty, self.edges):
            if start > at:
                yield at, start, Holds.BASE
            yield start, end, Holds.DATA
            at = end
        if at < self.end:
            yield at, self.end, Holds.BASE

    def _all(self) -> Iterator[tuple[int, int, Holds]]:
        if not self.where.private:  # what is not in our page tables may be in others'
            yield self.start, self.end, Holds.DATA
            return
        at = self.start
        with Pagemap.adopt(of_ourselves("pagemap")) as pagemap:
            for start, end, zero in present(pagemap, self.start, self.end):
                if start > at:
                    yield at, start, Holds.HOLE
                yield start, end, Holds.ZERO if zero else Holds.DATA
                at = end
        if at < self.end:
            yield at, self.end, Holds.HOLE


class MemoryInput:
    """`parts` one after the other; pages between them are holes.

    `stopper`: who has us stand still; None: nobody does, and pages may be of different moments.
    """

    regions: Sequence[Region] = ()
    warnings: Sequence[str] = ()

    def __init__(
        self,
        kind: str,
        parts: Sequence[Part],
        about: Mapping[str, str],
        stopper: Stopper | None,
    ) -> None:
        self.kind = kind
        self._parts = sorted(parts, key=lambda part: part.first)
        self._firsts = [part.first for part in self._parts]
        self.length = max((part.first + part.pages for part in parts), default=0) * PAGE
        self._about = about
        self._stopper = stopper
        self._memory = of_ourselves("mem")
        self._buffer = Buffer()
        self.stopped_s = 0.0
        self.written = 0  # pages that were told to be dirty

    def runs(self) -> Iterator[PageRun]:
        """What to read; every page that is written from now on is told by `again`."""
        if self._stopper is not None:
            self._stopper.start()
        for part in self._parts:
            part.take()
        page = 0
        for part in self._parts:
            if part.first > page:
                yield PageRun(page, part.first - page, Holds.HOLE)
            for start, end, holds in part.told():
                count = (end - start) // PAGE
                if holds is Holds.DATA:
                    self.written += count
                yield PageRun(part.first + (start - part.start) // PAGE, count, holds)
            page = part.first + part.pages

    def read(self, page: int, count: int) -> memoryview:
        """The pages as they are now; zeros where the memory has others' bytes in them."""
        view = self._buffer.pages(count)
        at = 0
        while at < count:
            part = self._parts[bisect.bisect_right(self._firsts, page + at) - 1]
            here = min(count - at, part.first + part.pages - page - at)
            start = part.start + (page + at - part.first) * PAGE
            target = view[at * PAGE : (at + here) * PAGE]
            self._read(target, start)
            _clear_others(part, target, start)
            at += here
        return view

    def again(self) -> Iterator[tuple[int, memoryview]]:
        """What was written while it was read: again and again while we run, until that is little;
        the rest while everybody stands still."""
        left: list[list[Run]] = [[] for _ in self._parts]
        for _ in range(_ROUNDS):
            left = [joined(old, part.take()) for old, part in zip(left, self._parts, strict=True)]
            if _bytes(left) <= (_SMALL if self._stopper is not None else 0):
                break
            for part, runs in zip(self._parts, left, strict=True):
                yield from self._now(part, runs)
            left = [[] for _ in self._parts]
        if self._stopper is not None:
            yield from self._at_once(self._stopper, left)
            return
        for part in self._parts:
            if part.compared:
                yield from self._now(part, [(part.start, part.end)])

    def finish(self) -> Mapping[str, str]:
        """Words about it."""
        return self._about

    def close(self) -> None:
        """Close what was opened.  The parts stay tracked."""
        fd, self._memory = self._memory, -1
        if fd >= 0:
            os.close(fd)

    def _at_once(self, stopper: Stopper, left: list[list[Run]]) -> Iterator[tuple[int, memoryview]]:
        always = [run for runs in left for run in runs]
        seen: list[Run] = []
        guarded: list[Run] = []
        for part in self._parts:
            always += [(part.start, part.end)] if part.compared else part.edges
            if part.way is not None and not part.compared:
                asked = seen if part.way.name == "async" else guarded
                asked.append((part.where.first, part.where.last))
        with Pagemap.adopt(of_ourselves("pagemap")) as pagemap:
            fds = pagemap.fileno(), self._memory
            point = stopper.copy(joined(always), seen, guarded, fds)
        self.stopped_s = point.stopped_s
        if point.data is not None:
            with point.data, memoryview(point.data) as data:
                yield from self._copied(point.runs, data)

    def _copied(self, runs: list[Run], data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Copies, given to the parts that they are of: two may lie side by side."""
        for part in self._parts:
            at = 0
            for start, end in runs:
                first, last = max(start, part.start), min(end, part.end)
                if first < last:
                    part.add([(first, last)])
                    place = at + first - start
                    for page in range(first, last, _PIECE):
                        size = min(_PIECE, last - page)
                        held = memoryview(bytearray(data[place : place + size]))
                        _clear_others(part, held, page)
                        yield part.first + (page - part.start) // PAGE, held
                        place += size
                at += end - start

    def _now(self, part: Part, runs: list[Run]) -> Iterator[tuple[int, memoryview]]:
        for start, end in runs:
            for at in range(start, end, _PIECE):
                page = part.first + (at - part.start) // PAGE
                yield page, self.read(page, min(_PIECE, end - at) // PAGE)

    def _read(self, target: memoryview, address: int) -> None:
        done = 0
        while done < len(target):
            try:
                got = os.preadv(self._memory, [target[done:]], address + done)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                got = 0
            if not got:
                raise SourceError(
                    f"the page at {address + done:#x} cannot be read",
                    cause="it is poisoned, guarded, or behind the end of its file",
                    cure="mend the memory, then store it",
                )
            done += got


def _clear_others(part: Part, target: memoryview, start: int) -> None:
    """What of these pages is not the part's own is not stored."""
    before = part.where.address - start
    if before > 0:
        target[:before] = bytes(before)
    behind = start + len(target) - part.where.address - part.where.length
    if behind > 0:
        target[len(target) - behind :] = bytes(behind)


def _bytes(several: list[list[Run]]) -> int:
    return sum(end - start for runs in several for start, end in runs)
