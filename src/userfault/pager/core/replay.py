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

from collections.abc import Iterator, Sequence
from operator import add, gt

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
        self._left: list[Run] = []  # the group that is under way
        self._at = 0  # how far it is done
        self._offers = 0  # how often it was offered
        self._sample = set(course.sample)
        self._inside = bytearray(books.pages.count)  # 1: of the set
        inside = self._inside
        for number in range(course.groups):
            for first, count in course.group(number):
                if count == 1:
                    inside[first] = 1
                else:
                    inside[first : first + count] = b"\1" * count
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
        elif self._inside[page]:
            counters.set_late += 1
        else:
            counters.set_outside += 1
            self._books.patient = False
        # Of its neighbours those that will be touched come ahead by themselves.
        return (page, 1) if self.under_way else self.inner.fault(page)

    # --- in advance ------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nothing more in advance."""
        self._left, self._next = [], self._groups
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
            if self._left and self._offers <= len(self._left) + _VAIN:
                runs = self._fillable()
                if runs:
                    self.why = SET
                    return _within(runs, load.room) or None
            self._left = []
            if self._next < self._groups:
                self._begin(self._course.group(self._next))
        return self.inner.idle(load)

    def _begin(self, group: Sequence[Run]) -> None:
        """A group: in the order of its pages, each once, and in pieces as short as whatever nobody
        waits for.  (So a course has it, but it is somebody else's.)"""
        runs = sorted(group)
        firsts, counts = zip(*runs, strict=True) if runs else ((), ())
        overlap = any(map(gt, map(add, firsts, counts), firsts[1:]))
        if overlap or max(counts, default=0) > self._most:
            runs = list(_pieces(runs, self._most))
        self._left, self._at, self._offers = runs, 0, 0
        # Who waits for a page of the set is helped as well by what comes next.  Who waits for
        # another one is not.
        self._books.patient = True
        self._next += 1

    def _fillable(self) -> list[Run]:
        """What of the group is not filled yet, and may be filled together."""
        runs, pages = self._left[self._at :], self._books.pages
        if not runs:
            return []
        start = runs[0][0]
        held = bytes(pages.states[start : sum(runs[-1])])
        if held.count(_MISSING) == len(held):  # nobody was here before
            return self._readable(runs)
        found: list[Run] = []
        cached: list[Run] = []
        for run in runs:
            first, count = run
            part = held[first - start : first - start + count]
            if not part.strip(_MISSING):
                found.append(run)
            elif not part.strip(_CACHED):
                cached.append(run)
            elif MISSING in part:
                found += pages.runs(first, count, MISSING)
            elif not found and not cached:
                self._at += 1  # from here on it is done
        return self._readable(found or cached)

    def _readable(self, runs: list[Run]) -> list[Run]:
        """Without what could not be read: that is read alone, and not here."""
        failures = self._books.failures
        if not failures:
            return runs
        return [(at, n) for at, n in runs if failures.keys().isdisjoint(range(at, at + n))]


_MISSING, _CACHED = bytes([MISSING]), bytes([CACHED])


def _within(runs: list[Run], room: int) -> list[Run]:
    """As many of them as there is room for."""
    if runs and sum(runs[-1]) - runs[0][0] <= room:  # nearly always
        return runs
    for number, (_, count) in enumerate(runs):
        room -= count
        if room < 0:
            return runs[:number]
    return runs


def _pieces(runs: list[Run], most: int) -> Iterator[Run]:
    """Runs in the order of their pages, none longer than `most`, and none over another."""
    end = 0
    for first, count in runs:
        low, end = max(first, end), max(first + count, end)
        for at in range(low, first + count, most):
            yield at, min(most, first + count - at)
