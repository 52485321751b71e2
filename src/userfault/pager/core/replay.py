"""What a restored program will touch comes ahead of its faults, by a course that was made before.

The course (`snapshot/working_sets/course.py`) says which runs, in which order: groups of them, each
one look at the source.  It is a hint of somebody else's: it says which pages may come now, and
never what is in them.  A group is filled by one action, between whose ioctls the driver looks for
faults, so that a fault waits for one of them at most; while faults come, by several, each as short
as what is done between two looks: so none is broken off, and nothing is planned twice.  What is
left when the course is done is `inner`'s.

A few pages of the set, the sample, are left out, and brought by faults: that is how it is seen how
many of the set's pages are touched.  What was filled ahead of a touch raises no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import add, gt

from userfault.pager.core.actions import between_looks
from userfault.pager.core.course import Course
from userfault.pager.core.outer import Outer
from userfault.pager.core.planner import Books, Load, Planner, Run, Work
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.trace import SET

# A group that was offered so much more often than it has runs is left to faults: no hint is worth a
# loop without an end.
_VAIN = 64
# Who waits for a page of the set is helped as well by what comes next: so a driver may look for
# faults more seldom, and much more seldom when so many in a row have been on pages of the set.
_PATIENT, _VERY_PATIENT = 4, 16
_KNOWN = 4


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
        self._pages = 1  # of it
        # Runs that were offered last, what is done of the group with them, and whether that is all.
        self._offered = self._covers = 0
        self._as_it_is = False
        self._disturbed = False  # a fault has come since
        self._inside = 0  # faults in a row that were on pages of the set
        self._outside = False  # one was not, since the group began
        self._nothing = [_MISSING * count for count in range(self._most + 1)]
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
        self._disturbed = True
        if page in self._sample:
            self._sample.discard(page)
            counters.set_touched += 1
        elif self._course.has(page):
            counters.set_late += 1
        else:
            counters.set_outside += 1
            self._books.patience, self._inside, self._outside = 1, -1, True
        self._inside += 1
        if self._inside == _KNOWN:
            self._books.patience = _VERY_PATIENT
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
        self._pages = max(sum(counts), 1)
        self._offered = self._covers = self._books.made = 0
        self._as_it_is = False
        if not self._outside:
            self._books.patience = max(self._books.patience, _PATIENT)
        self._outside = False
        self._next += 1

    def _fillable(self) -> list[Run]:
        """What comes next of the group: not filled yet, and may be filled together."""
        books, left = self._books, self._left
        made, books.made = books.made, 0
        if made == self._offered:
            self._at += self._covers
        elif self._as_it_is:
            self._at += made
        while self._at < len(left):
            runs = left[self._at : self._at + self._few()] if self._disturbed else left[self._at :]
            found = self._alike(runs)
            if found:
                self._offered, self._disturbed = len(found), False
                return found
            self._at += self._covers
        self._offered = self._covers = 0
        return []

    def _few(self) -> int:
        """How many runs a driver makes between two looks."""
        length = self._pages << self._books.plan.shift
        return between_looks(self._books.patience, len(self._left), length)

    def _alike(self, runs: list[Run]) -> list[Run]:
        """What of these is still to be filled: all of it MISSING, or all of it CACHED."""
        pages, start = self._books.pages, runs[0][0]
        held = bytes(pages.states[start : sum(runs[-1])])
        nothing, begins = self._nothing, held.startswith
        self._covers = len(runs)
        self._as_it_is = not held.strip(_MISSING) or all(
            begins(nothing[count], first - start) for first, count in runs
        )
        if self._as_it_is:
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
            elif not found and not cached:  # from here on it is done
                self._at += 1
                self._covers -= 1
        found, cached = self._readable(found), self._readable(cached)
        if found and cached:
            self._covers = 0  # those come next
        return found or cached

    def _readable(self, runs: list[Run]) -> list[Run]:
        """Without what could not be read: that is read alone, and not here."""
        failures = self._books.failures
        if not failures:
            return runs
        self._as_it_is = False
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
