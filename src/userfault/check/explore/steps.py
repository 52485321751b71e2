"""What one schedule was: its steps, what each touched, and how it ended."""

from __future__ import annotations

import msgspec

from userfault.model.tasks.recorder import Place

NOBODY = -1  # where a task is named by its number, and there is none

_NOTHING: frozenset[Place] = frozenset()


class Step:
    """What one task did from one point to its next.

    `enabled`: who could have been chosen, in order of their numbers; `current`: who would have
    gone on if nobody had been preempted, or NOBODY where the last one slept or ended.
    """

    __slots__ = ("adds", "current", "enabled", "point", "reads", "spun", "task", "writes")

    def __init__(
        self, task: int, point: str, enabled: tuple[int, ...], current: int, *, spun: bool = False
    ) -> None:
        self.task = task
        self.point = point
        self.enabled = enabled
        self.current = current
        self.spun = spun  # it tries again because nobody else could do a thing
        self.reads: set[Place] | frozenset[Place] = _NOTHING
        self.writes: set[Place] | frozenset[Place] = _NOTHING
        self.adds: set[Place] | frozenset[Place] = _NOTHING

    @property
    def preempts(self) -> bool:
        """Whether a task was interrupted that could have gone on."""
        return self.current not in (NOBODY, self.task)

    def conflicts(self, other: Step) -> bool:
        """Whether the two may tell in which order they come.

        What is read or counted by both commutes; anything else that both touch does not.
        """
        writes, reads, adds = other.writes, other.reads, other.adds
        mine = self.writes
        if mine and not (
            mine.isdisjoint(writes) and mine.isdisjoint(reads) and mine.isdisjoint(adds)
        ):
            return True
        if writes and not (self.reads.isdisjoint(writes) and self.adds.isdisjoint(writes)):
            return True
        return not (self.reads.isdisjoint(adds) and self.adds.isdisjoint(reads))


TWO_TRACES = "two traces"  # a kind of violation: the same schedule went two ways


class Violation(msgspec.Struct, frozen=True):
    """What went wrong in a schedule.

    `kind`: `invariant`, `raised`, `deadlock`, `stuck`, `endless`, `check` (the scenario's own) or
    `two traces` (the same schedule gave two); `name`: of the invariant, of the exception, of the
    tasks; `text`: the whole story.
    """

    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# What a schedule ended in: of each task its result, then what the scenario looked at.
Outcome = tuple[tuple[str, str], ...]


class Run:
    """One schedule that was run.

    `outcome` is None where it did not come to its end: it broke something (`violation`), or the
    strategy gave it up (`cut`).
    """

    __slots__ = ("cut", "looked", "outcome", "repeated", "steps", "violation")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.repeated = 0  # so many first steps were those of the run before, and not recorded
        self.outcome: Outcome | None = None
        self.violation: Violation | None = None
        self.cut = False
        self.looked: object = None  # what the runner's `look` saw in the end

    @property
    def schedule(self) -> list[int]:
        """Who ran, step by step."""
        return [step.task for step in self.steps]

    @property
    def preemptions(self) -> int:
        """How often a task was interrupted that could have gone on."""
        return sum(step.preempts for step in self.steps)
