"""Memory of this program as an input of `pack`: what was written since it was packed last, as it
is at one moment."""

from __future__ import annotations

import bisect
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from userfault.api.point import Point, Stopper
from userfault.api.point_main import Seen, Wanted, rounded
from userfault.api.track import track
from userfault.api.track_modes import Way, of_ourselves, own_pagemap
from userfault.api.track_served import Served, without
from userfault.kernel.errors import PagerError, SourceError
from userfault.linux.present import present
from userfault.linux.unpatched import original
from userfault.linux.written import Run, joined
from userfault.snapshot.format.manifest import pages_of
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region
from userfault.snapshot.inputs.protocol import Run as PageRun

_COPIED = 256 << 20  # bytes that may be copied aside
_ROUNDS = 6
_TAKEN_OVER = 3
_FILL_S, _FILL_STEP_S = 5.0, 0.001  # for how long a page that is being filled is waited for
_PIECE = 64 * PAGE


class Part:
    """One piece of memory that is tracked: its first byte is that of page `first` of the image.

    So pages of the image and of the memory may overlap each other in halves: what is as in the
    base does not depend on where the memory lies.  Runs are addresses, `rounded` to pages of the
    image.  `dirty`: what may have other bytes than in the base; None: all of it.
    """

    def __init__(self, thing: Any, mode: str | None) -> None:
        self.tracker = track(thing, mode=mode)
        self.where = self.tracker._held.where
        self.start = self.where.address
        self.end = self.start + self.where.length
        self.pages = -(-self.where.length // PAGE)
        self.first = 0
        self.dirty: list[Run] | None = None
        self.based = False  # what is missing is as in the base

    @property
    def place(self) -> tuple[int, int]:
        """Address and length."""
        return self.where.address, self.where.length

    @property
    def way(self) -> Way | None:
        """How its whole pages are seen."""
        return self.tracker._held.way

    @property
    def edges(self) -> list[Run]:
        """What is looked at by its bytes: it is copied each time."""
        return self.rounded(self.where.edges)

    @property
    def compared(self) -> bool:
        """Whether the kernel does not tell what is written."""
        return self.way is not None and self.way.name == "compare"

    def rounded(self, runs: list[Run]) -> list[Run]:
        """The pages of the image that these touch."""
        return rounded(runs, self.start, self.end)

    def page(self, address: int) -> int:
        """The page of the image that begins at an address."""
        return self.first + (address - self.start) // PAGE

    def take(self) -> list[Run]:
        """What was written since the last time; from now on it is dirty."""
        if self.way is None or self.compared:
            return []
        new = self.rounded(self.way.take())
        self.add(new)
        return new

    def add(self, runs: list[Run]) -> None:
        """More that is dirty; what lies elsewhere is left out."""
        if self.dirty is not None:
            mine = [(max(s, self.start), min(e, self.end)) for s, e in runs]
            self.dirty = joined(self.dirty, [run for run in mine if run[0] < run[1]])

    def told(self) -> Iterator[tuple[int, int, Holds]]:
        """All of it in order: what is to be read, and what is as in the base or a hole."""
        if self.compared:  # all of it is copied at the end
            yield self.start, self.end, Holds.ZERO
            return
        if self.dirty is None and (missing := self._missing()):
            others, data = Holds.BASE, without([(self.start, self.end)], missing)
        elif self.dirty is None:
            others, data = Holds.HOLE, self._present()
        else:
            others, data = Holds.BASE, joined(self.dirty, self.edges)
        at = self.start
        for start, end in data:
            if start > at:
                yield at, start, others
            yield start, end, Holds.DATA
            at = end
        if at < self.end:
            yield at, self.end, others

    def _missing(self) -> list[Run]:
        """What a pager is yet to fill; raises SourceError where the base does not have it."""
        missing = self.way.missing() if isinstance(self.way, Served) else []
        if missing and not self.based:
            count = sum(end - start for start, end in missing) // PAGE
            raise SourceError(
                "the memory is not complete",
                cause=f"{count} pages are missing: nobody wrote them, and they will be what the"
                " memory is filled from",
                cure="complete() it first, or store it as a layer on the snapshot that it shows, in"
                " the same store",
            )
        return [(start, min(end, self.end)) for start, end in missing]

    def _present(self) -> list[Run]:
        if not self.where.private:  # what is not in our page tables may be in others'
            return [(self.start, self.end)]
        first, last = self.start // PAGE * PAGE, -(-self.end // PAGE) * PAGE
        with own_pagemap() as pagemap:
            there = present(pagemap, first, last)
            return self.rounded([(start, end) for start, end, zero in there if not zero])


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
        self._by_address = sorted(parts, key=lambda part: part.start)
        self._starts = [part.start for part in self._by_address]
        self.length = max((part.first + part.pages for part in parts), default=0) * PAGE
        self._about = about
        self._stopper = stopper
        self._memory = of_ourselves("mem")
        self._buffer = Buffer()
        self.stopped_s = self.held_s = 0.0
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
                count = pages_of(end - start)
                if holds is Holds.DATA:
                    self.written += count
                yield PageRun(part.page(start), count, holds)
            page = part.first + part.pages

    def read(self, page: int, count: int) -> memoryview:
        """The pages as they are now; zeros behind the end of a part."""
        view = self._buffer.pages(count)
        at = 0
        while at < count:
            part = self._parts[bisect.bisect_right(self._firsts, page + at) - 1]
            here = min(count - at, part.first + part.pages - page - at)
            start = part.start + (page + at - part.first) * PAGE
            target = view[at * PAGE : (at + here) * PAGE]
            inside = min(len(target), part.end - start)
            self._read(target[:inside], start, served=isinstance(part.way, Served))
            target[inside:] = bytes(len(target) - inside)
            at += here
        return view

    def again(self) -> Iterator[tuple[int, memoryview]]:
        """What was written while it was read: again and again while we run, until that is little;
        the rest while everybody stands still."""
        left: list[list[Run]] = []
        before = 1 << 62
        for _ in range(_ROUNDS):
            left = [part.take() for part in self._parts]
            size = _bytes(left)
            # What is written again and again is copied faster than it is packed, and stored once.
            if not size or (self._stopper is not None and (size <= _COPIED or size * 2 > before)):
                break
            before = size
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
        for _ in range(_TAKEN_OVER):
            point = self._point(stopper, [run for runs in left for run in runs])
            if not point.lost:
                break
            # A pager has let go of memory that is complete now: all of that counts as written.
            left = [part.take() for part in self._parts]
            for part, runs in zip(self._parts, left, strict=True):
                yield from self._now(part, runs)
            left = []
        if point.failed is not None:
            raise point.failed
        self.stopped_s, self.held_s = point.stopped_s, point.held_s
        if point.data is not None:
            with point.data, memoryview(point.data) as data:
                yield from self._copied(point.runs, data)

    def _point(self, stopper: Stopper, early: list[Run]) -> Point:
        """Everybody stands still; what was written is dirty in any case."""
        always: list[Run] = []
        seen: list[Seen] = []
        guarded: list[Seen] = []
        for part in self._parts:
            always += [(part.start, part.end)] if part.compared else part.edges
            if part.way is not None and not part.compared:
                asked = seen if part.way.name == "async" else guarded
                asked.append(Seen(part.where.first, part.where.last, part.start, part.end))
        with own_pagemap() as pagemap:
            wanted = Wanted(os.getpid(), joined(early), joined(always), seen, guarded)
            try:
                point = stopper.copy(wanted, (pagemap.fileno(), self._memory))
            except PagerError:  # nobody knows what it has protected again
                for part in self._parts:
                    part.dirty = None
                raise
        for part in self._parts:
            part.add(point.runs)
        return point

    def _copied(self, runs: list[Run], data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Copies, given to the parts that they are of; of each page the last one."""
        places: dict[int, int] = {}
        at = 0
        for start, end in runs:
            address = start
            while address < end:
                places[address] = at
                size = min(PAGE, self._part_at(address).end - address)
                address, at = address + size, at + size
        piece = bytearray()
        begun = following = 0
        for address in [*sorted(places), 0]:
            if piece and (address != following or len(piece) >= _PIECE):
                yield self._part_at(begun).page(begun), memoryview(padded(bytes(piece)))
                piece.clear()
            if not address:
                break
            part = self._part_at(address)
            begun = begun if piece else address
            size = min(PAGE, part.end - address)
            piece += data[places[address] : places[address] + size]
            # Never on into the next part, wherever that begins.
            following = address + size if address + size < part.end else -1

    def _part_at(self, address: int) -> Part:
        return self._by_address[bisect.bisect_right(self._starts, address) - 1]

    def _now(self, part: Part, runs: list[Run]) -> Iterator[tuple[int, memoryview]]:
        for start, end in runs:
            for at in range(start, end, _PIECE):
                page = part.page(at)
                yield page, self.read(page, pages_of(min(_PIECE, end - at)))

    def _read(self, target: memoryview, address: int, *, served: bool) -> None:
        deadline = time.monotonic() + (_FILL_S if served else 0)
        done = 0
        while done < len(target):
            try:
                got = os.preadv(self._memory, [target[done:]], address + done)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                got = 0
            if not got and time.monotonic() < deadline:
                original("time", "sleep")(_FILL_STEP_S)
                continue
            if not got:
                raise SourceError(
                    f"the page at {address + done:#x} cannot be read",
                    cause="it is poisoned, guarded, or behind the end of its file",
                    cure="mend the memory, then store it",
                )
            done += got


def padded(data: bytes) -> bytes:
    """With zeros to the end of its last page."""
    return data.ljust(pages_of(len(data)) * PAGE, b"\0")


def _bytes(several: list[list[Run]]) -> int:
    return sum(end - start for runs in several for start, end in runs)
