"""Every schedule, one after the other: the search that the reduced one is measured against."""

from __future__ import annotations

from userfault.check.explore.steps import NOBODY, Run
from userfault.check.explore.strategies.strategy import Here


class DepthFirst:
    """All orders of all steps; with `preemptions`, those that interrupt no more often than that.

    At each choice the task that would go on comes first, so that schedules with few preemptions
    are seen early.
    """

    records = False

    def __init__(self, preemptions: int | None = None) -> None:
        self._bound = preemptions
        self._left: list[list[int]] = []  # at each depth: who is still to be tried, last one first
        self._spent: list[int] = []  # preemptions before each depth
        self._last: list[int] = []  # the choices of this run
        self._currents: list[int] = []
        self._began = False

    @property
    def exhausts(self) -> bool:
        return self._bound is None

    def begin(self) -> int | None:
        if not self._began:
            self._began = True
            return 0
        while self._left and not self._left[-1]:
            self._drop()
        if not self._left:
            return None
        return len(self._left) - 1

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth == len(self._left):
            self._open(here)
        chosen = self._left[depth].pop()
        self._last[depth] = chosen
        return chosen

    def _open(self, here: Here) -> None:
        spent = 0
        if self._last:
            spent = self._spent[-1] + (self._currents[-1] not in (NOBODY, self._last[-1]))
        choices = list(here.enabled)
        if here.current != NOBODY:
            choices.remove(here.current)
            if self._bound is not None and spent >= self._bound:
                choices.clear()
            choices.insert(0, here.current)
        choices.reverse()
        self._left.append(choices)
        self._spent.append(spent)
        self._currents.append(here.current)
        self._last.append(NOBODY)

    def _drop(self) -> None:
        for stack in (self._left, self._spent, self._last, self._currents):
            stack.pop()

    def end(self, run: Run) -> None:
        del run
