"""Other orders of the model's tasks, nearest first.

Of several tasks that can run nobody promises which one goes first.  Where the model differs from
a kernel, its other schedules are tried: first every order of whole tasks, the last choices first,
then tasks that are preempted inside of the kernel.  The number of tries is limited.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from userfault.model.tasks.sched import Task

_ORDERS = 64  # tries without preemption
_PREEMPTED = 64  # about so many tries with one preemption
_RANDOM = 64  # tries with preemption at random
_PICK = "pick"


class Scripted:
    """A scheduler that follows another one's choices, but for the turns it takes.

    `turns[n]` says how far from the choice that was made before the n-th choice is; after the
    last of them it is 0, or at random.
    """

    def __init__(
        self,
        before: Scripted | None = None,
        turns: Sequence[int] = (),
        *,
        preemptive: bool = False,
        seed: int | None = None,
    ) -> None:
        self.preemptive = preemptive
        self._before: dict[bool, list[int]] = before.taken if before else {}
        self._turns = turns
        self._seed = seed
        self.new_run()

    def new_run(self) -> None:
        self._random = random.Random(self._seed) if self._seed is not None else None
        # Choices of who runs next, and of who is preempted, each counted on its own: a run with
        # preemption that preempts nobody makes the former as a run without it does.
        self.taken: dict[bool, list[int]] = {True: [], False: []}
        self.choices: list[tuple[int, int]] = []  # the turn taken, of how many

    def next_task(self, tasks: Sequence[Task], point: str) -> int:
        taken = self.taken[point == _PICK]
        before = self._before.get(point == _PICK, [])
        usual = before[len(taken)] if len(taken) < len(before) else 0
        at = len(self.choices)
        if at < len(self._turns):
            turn = self._turns[at]
        else:
            turn = self._random.randrange(len(tasks)) if self._random is not None else 0
        chosen = (usual + turn) % len(tasks)
        taken.append(chosen)
        self.choices.append((turn, len(tasks)))
        return chosen


def others(before: Scripted) -> Iterator[Scripted]:
    """Schedules to try after `before`; each has to be run before the next one is asked for."""
    if not before.preemptive:
        yield from _orders(before)
    plain = Scripted(before, preemptive=True)
    yield plain
    yield from _preempted(before, [limit for _, limit in plain.choices])


def _orders(before: Scripted) -> Iterator[Scripted]:
    """All of them, one after the other, the last choice first."""
    choices = [(0, limit) for _, limit in before.choices]
    for _ in range(_ORDERS):
        open_at = [at for at, (turn, limit) in enumerate(choices) if turn + 1 < limit]
        if not open_at:
            return
        last = open_at[-1]
        tried = Scripted(before, [turn for turn, _ in choices[:last]] + [choices[last][0] + 1])
        yield tried
        choices = tried.choices


def _preempted(before: Scripted, limits: list[int]) -> Iterator[Scripted]:
    """One choice made otherwise, the last ones first; then many, from some choice on."""
    tries = 0
    for at in reversed(range(len(limits))):
        for turn in range(1, limits[at]):
            yield Scripted(before, [0] * at + [turn], preemptive=True)
            tries += 1
        if tries >= _PREEMPTED:
            break
    for number in range(_RANDOM if limits else 0):
        kept = max(len(limits) - (2 << number % 8), 0)
        yield Scripted(before, [0] * kept, preemptive=True, seed=number)
