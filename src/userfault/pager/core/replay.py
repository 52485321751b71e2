"""What a restored program will touch comes ahead of its faults, by a course that was made before.

The course (`snapshot/working_sets/course.py`) says which runs, in which order: groups of them, each
one look at the source.  It is a hint of somebody else's: it says which pages may come now, and
never what is in them.  A group is filled by one action, between whose ioctls the driver looks for
faults, so that a fault waits for one of them at most.  What is left when the course is done is
`inner`'s.

A few pages of the set, the sample, are left out, and brought by faults: that is how it is seen how
many of the set's pages are touched.  What was filled ahead of a touch raises no fault.
"""

from __future__ import annotations

from collections.abc import Sequence

from userfault.pager.core.course import Course
from userfault.pager.core.outer import Outer
from userfault.pager.core.planner import Books, Load, Planner, Run, Work
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.trace import SET

# A group that was offered so much more often than it has runs is left to faults: no hint is worth a
# loop without an end.
_VAIN = 64


class Replay(Outer):
    """Fills what `course` says, then what `inner` says.

    Of a child of fork(2) that shares no pages it is not asked for: only touches bring its pages in.
    """

    def __init__(self, inner: Planner, books: Books, course: Course) -> None:
        super().__init__(inner)
        self._books = books
        self._course = course
        self._groups = course.groups
        self._most = books.plan.chunk_pages
        self._next = 0
        self._left: Sequence[Run] = ()  # the group that is under way
        self._offers = 0  # how often it was offered
        self._sample = set(course.sample)
        books.counters.set_sampled = len(self._sample)

    @property
    def under_way(self) -> bool:
        """It has not come to its end."""
        return bool(self._left) or self._next < self._groups

    # --- with a fault ----------------------------------------------------------------------------

    def fault(self, page: int) -> Run:
        """As ever; and what it says of the set."""
        counters = self._books.counters
        if page in self._sample:
            self._sample.discard(page)
            counters.set_touched += 1
        elif self.under_way:
            counters.set_late += 1
        else:
            counters.set_outside += 1
        return self.inner.fault(page)

    # --- in advance ------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nothing more in advance."""
        self._left, self._next = (), self._groups
        self.inner.forget()

    @property
    def eager(self) -> bool:
        """The course, then `inner`."""
        return self.under_way or self.inner.eager

    def idle(self, load: Load) -> Work | None:
        """The next group, or what of it is still to be filled."""
        while self.under_way:
            if load.full or (load.in_advance and self._books.plan.layout is not None):
                return None  # a read of it is under way
            self._offers += 1
            if self._offers <= len(self._left) + _VAIN and (runs := self._fillable()):
                self.why = SET
                return _within(runs, load.room) or None
            self._left, self._offers = (), 0
            if self._next < self._groups:
                self._left = self._course.group(self._next)
                self._next += 1
        return self.inner.idle(load)

    def _fillable(self) -> list[Run]:
        """What of the group is not filled yet, and may be filled together."""
        pages, failures = self._books.pages, self._books.failures
        states = pages.states
        found: list[Run] = []
        cached: list[Run] = []
        for run in self._left:
            first, count = run
            held = states[first : first + count]
            if not held.strip(_MISSING):
                found += _pieces(run, self._most)
            elif not held.strip(_CACHED):
                cached += _pieces(run, self._most)
            elif MISSING in held:
                for part in pages.runs(first, count, MISSING):
                    found += _pieces(part, self._most)
        if failures:  # what could not be read is read alone, and not here
            found = [(a, n) for a, n in found if failures.keys().isdisjoint(range(a, a + n))]
        return found or cached


_MISSING, _CACHED = bytes([MISSING]), bytes([CACHED])


def _within(runs: list[Run], room: int) -> list[Run]:
    """As many of them as there is room for."""
    for number, (_, count) in enumerate(runs):
        room -= count
        if room < 0:
            return runs[:number]
    return runs


def _pieces(run: Run, most: int) -> list[Run]:
    """The run, in pieces that are not longer than anything that nobody waits for."""
    first, count = run
    if count <= most:
        return [run]
    end = first + count
    return [(at, min(most, end - at)) for at in range(first, end, most)]
