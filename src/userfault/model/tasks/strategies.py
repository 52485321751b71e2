"""Who runs next, where more than one task can: strategies that a machine is given.

A strategy is a `Scheduler` (`sched`): `next_task` is asked at every point where the running task
may be preempted (if `preemptive`), and with the name "pick" whenever the processor is free and
several tasks can run.  It must depend on nothing but its own choices, so that a run repeats.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from userfault.model.tasks.sched import Task


class InOrder:
    """Each task runs until it blocks, in the order in which they became ready."""

    preemptive = False

    def new_run(self) -> None:
        """Nothing is kept."""

    def next_task(self, tasks: Sequence[Task], point: str) -> int:
        del tasks, point
        return 0


class Seeded:
    """Every choice at random from one seed."""

    preemptive = True

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)

    def new_run(self) -> None:
        self._random = random.Random(self._seed)

    def next_task(self, tasks: Sequence[Task], point: str) -> int:
        del point
        return self._random.randrange(len(tasks))
