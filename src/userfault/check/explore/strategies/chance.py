"""Schedules at random: for spaces too large to be walked whole."""

from __future__ import annotations

import random

from userfault.check.explore.steps import NOBODY, Run
from userfault.check.explore.strategies.strategy import Here


class Random:
    """Each choice at random, all of them alike."""

    exhausts = False
    records = False

    def __init__(self, seed: int, schedules: int) -> None:
        self._random = random.Random(seed)
        self._left = schedules

    def begin(self) -> int | None:
        if not self._left:
            return None
        self._left -= 1
        return 0

    def choose(self, here: Here) -> int:
        return self._random.choice(here.enabled)

    def end(self, run: Run) -> None:
        del run


class Priorities:
    """Random priorities that change at a few random steps (PCT: Burckhardt, Kothari, Musuvathi
    and Nagarakatte, "A randomized scheduler with probabilistic guarantees of finding bugs",
    ASPLOS 2010).

    A bug that needs `depth` orders among n tasks of k steps in all is found by one schedule with
    a probability of at least 1 / (n * k ** (depth - 1)).
    """

    exhausts = False
    records = False

    def __init__(self, seed: int, schedules: int, depth: int = 3) -> None:
        self._random = random.Random(seed)
        self._left = schedules
        self._depth = depth
        self._length = 16  # steps of the longest schedule so far
        self._priorities: dict[int, float] = {}
        self._changes: dict[int, int] = {}  # at which step: to which low priority

    def begin(self) -> int | None:
        if not self._left:
            return None
        self._left -= 1
        self._priorities.clear()
        count = min(self._depth - 1, self._length)
        steps = self._random.sample(range(self._length), count)
        self._changes = {step: -number for number, step in enumerate(steps, 1)}
        return 0

    def choose(self, here: Here) -> int:
        priorities = self._priorities
        for task in here.enabled:
            if task not in priorities:
                priorities[task] = self._random.random()
        lowered = self._changes.get(len(here.steps))
        if lowered is not None:
            running = here.current if here.current != NOBODY else self._highest(here)
            priorities[running] = lowered
        return self._highest(here)

    def _highest(self, here: Here) -> int:
        return max(here.enabled, key=self._priorities.__getitem__)

    def end(self, run: Run) -> None:
        self._length = max(self._length, len(run.steps))
