"""Which steps of a schedule happen before which, and which two raced.

Steps are numbered; a set of steps is an integer with a bit for each.  A step happens after the
earlier steps of its task, after the step that woke it, and after every step that it conflicts
with.  Two steps *race* when they conflict and nothing else orders them: there is a schedule in
which the later one comes first.
"""

from __future__ import annotations

from userfault.check.explore.steps import Step
from userfault.model.tasks.recorder import Place

# Of a place: the last step that wrote, and those that have read and counted since.
_Place = tuple[int, int, int]
_FRESH: _Place = (0, 0, 0)


def numbers(steps: int) -> list[int]:
    """The numbers of the steps in a set."""
    found = []
    while steps:
        low = steps & -steps
        found.append(low.bit_length() - 1)
        steps ^= low
    return found


class Order:
    """The steps of one schedule, which can be cut back to its beginning and continued."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.before: list[int] = []  # of each step: the set of those that happen before it
        self._places: dict[Place, _Place] = {}
        self._undo: list[list[tuple[Place, _Place]]] = []
        self._latest: dict[int, int] = {}  # of each task, its last step
        self._latest_undo: list[int] = []

    def cut(self, length: int) -> None:
        """Forget all but the first `length` steps."""
        while len(self.steps) > length:
            step = self.steps.pop()
            self.before.pop()
            for place, old in reversed(self._undo.pop()):
                self._places[place] = old
            self._latest[step.task] = self._latest_undo.pop()

    def add(self, step: Step) -> int:
        """The next step; returns the set of those that it raced with."""
        number = len(self.steps)
        known = 0
        latest = self._latest.get(step.task, -1)
        if latest >= 0:
            known = self.before[latest] | 1 << latest
        touched = self._touch(step, 1 << number)
        if step.spun:  # it was woken because nobody could run: after everything
            known = (1 << number) - 1
        direct = touched & ~known
        covered = 0
        for other in numbers(direct):
            covered |= self.before[other]
        self.steps.append(step)
        self.before.append(known | direct | covered)
        self._latest_undo.append(latest)
        self._latest[step.task] = number
        return self._reversible(step, direct & ~covered)

    def _touch(self, step: Step, bit: int) -> int:
        """Note its accesses: who has touched the same before in a way that does not commute."""
        places = self._places
        undo: list[tuple[Place, _Place]] = []
        found = 0
        for place in step.writes:
            old = places.get(place, _FRESH)
            found |= old[0] | old[1] | old[2]
            undo.append((place, old))
            places[place] = (bit, 0, 0)
        for place in step.reads:
            old = places.get(place, _FRESH)
            found |= old[0] | old[2]
            undo.append((place, old))
            places[place] = (old[0], old[1] | bit, old[2])
        for place in step.adds:
            old = places.get(place, _FRESH)
            found |= old[0] | old[1]
            undo.append((place, old))
            places[place] = (old[0], old[1], old[2] | bit)
        self._undo.append(undo)
        return found & ~bit

    def _reversible(self, step: Step, raced: int) -> int:
        """Without those that woke it: before them it could not run."""
        for other in numbers(raced):
            woke = self.steps[other].writes & step.reads
            if any(place[0] == "wake" for place in woke):
                raced &= ~(1 << other)
        return raced

    def not_after(self, first: int, last: int) -> int:
        """The steps between the two that do not happen after `first`."""
        bit = 1 << first
        found = 0
        for number in range(first + 1, last):
            if not self.before[number] & bit:
                found |= 1 << number
        return found

    def initials(self, steps: int) -> dict[int, int]:
        """The tasks of a set of steps whose first step there happens after no other of the set."""
        found: dict[int, int] = {}
        seen: set[int] = set()
        for number in numbers(steps):
            task = self.steps[number].task
            if task in seen:
                continue
            seen.add(task)
            if not self.before[number] & steps:
                found[task] = number
        return found
