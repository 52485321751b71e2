"""How the mappings of one pager share its work in flight: reads of sources, by threads or workers.

There are `limit` places.  Who gets the next one:

* a read that a thread waits for goes before one made in advance; one in `_EVERY` goes the other
  way, so that faults that never cease do not hold up background fill for ever;
* among equals, the mapping that holds the fewest places; then the one served longest ago.

A quarter of the places is kept for faults of mappings that hold none.  So sources that hang, or
a mapping with many threads, cannot have all places, and the first fault of another is read at once.
Reads in advance have half of the places at most: in front of a source that hangs, faults of the
mappings that read it find a place.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

_EVERY = 16


class Wanted(Protocol):
    """A read that waits for a place.  Both may change while it waits."""

    demand: bool  # a thread waits for it
    abandoned: bool  # nobody wants it any more


Read = TypeVar("Read", bound=Wanted)


class Shares(Generic[Read]):
    """`limit` places, for reads of mappings (by number)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = 0  # places taken at once, at the highest
        self._spare = limit // 4
        self._in_advance = limit // 2 if self._spare else limit  # few are all to be had
        self._waiting: dict[int, list[Read]] = {}  # the mapping served longest ago is the first
        self._running: dict[int, tuple[int, Read]] = {}  # by identity
        self._held: dict[int, int] = {}  # places by mapping
        self._row = 0  # places given to threads that wait, while others waited in vain

    @property
    def running(self) -> int:
        """Places taken."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Reads without a place."""
        return sum(map(len, self._waiting.values()))

    def ask(self, mapping: int, read: Read) -> None:
        """`read` wants a place."""
        self._waiting.setdefault(mapping, []).append(read)

    def at_once(self, mapping: int, read: Read) -> bool:
        """Whether `read`, which a thread waits for, has a place without anybody being asked."""
        if self._waiting or len(self._running) >= self.limit - self._spare:
            return False
        self._take(mapping, read)
        return True

    def grant(self) -> Read | None:
        """The read that gets a free place now; None where there is none for any that waits."""
        if not self._waiting or len(self._running) >= self.limit:
            return None
        chosen = self._choose()
        if chosen is None:
            return None
        mapping, read = chosen
        left = self._waiting.pop(mapping)
        left.remove(read)
        if left:
            self._waiting[mapping] = left  # behind all others: it was taken out before
        self._take(mapping, read)
        return read

    def _take(self, mapping: int, read: Read) -> None:
        self._running[id(read)] = mapping, read
        self._held[mapping] = self._held.get(mapping, 0) + 1
        self.most = max(self.most, len(self._running))

    def end(self, read: Read) -> None:
        """`read` needs its place no more (or never had one)."""
        found = self._running.pop(id(read), None)
        if found is None:
            return
        mapping, _ = found
        self._held[mapping] -= 1
        if not self._held[mapping]:
            del self._held[mapping]

    def forget(self, mapping: int, reads: list[Read]) -> None:
        """Nobody will tell of these reads of a mapping any more, whether they wait or run."""
        unwanted = {id(read) for read in reads}
        left = [read for read in self._waiting.pop(mapping, []) if id(read) not in unwanted]
        if left:
            self._waiting[mapping] = left
        for read in reads:
            self.end(read)

    def reads_of(self, mapping: int) -> list[Read]:
        """The reads of a mapping that wait or run."""
        running = [read for owner, read in self._running.values() if owner == mapping]
        return [*self._waiting.get(mapping, []), *running]

    def _choose(self) -> tuple[int, Read] | None:
        """Who is next, and which of its reads."""
        self._drop_abandoned()
        urgent, advance = self._first(demand=True), self._first(demand=False)
        if urgent is None or (advance is not None and self._row >= _EVERY):
            self._row = 0
            return advance
        self._row += advance is not None
        return urgent

    def _first(self, *, demand: bool) -> tuple[int, Read] | None:
        """The mapping with the fewest places, among those with reads of this kind."""
        found: tuple[int, Read] | None = None
        fewest = self.limit + 1
        free = len(self._running) < self.limit - self._spare
        if not demand:
            in_advance = sum(not read.demand for _, read in self._running.values())
            free = free and in_advance < self._in_advance
        for mapping, reads in self._waiting.items():
            held = self._held.get(mapping, 0)
            if held >= fewest or not (free or (demand and not held)):
                continue
            for read in reads:
                if read.demand == demand:
                    found, fewest = (mapping, read), held
                    break
        return found

    def _drop_abandoned(self) -> None:
        for mapping, reads in list(self._waiting.items()):
            if any(read.abandoned for read in reads):
                left = [read for read in reads if not read.abandoned]
                if left:
                    self._waiting[mapping] = left
                else:
                    del self._waiting[mapping]
