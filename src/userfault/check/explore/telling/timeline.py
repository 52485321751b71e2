"""One schedule told step by step: who ran, from which point, and what changed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import Outcome, Run, Violation
from userfault.check.explore.strategies.replay import Line, Replay, check_same
from userfault.check.explore.telling.describe import State, Words, changes
from userfault.model.invariants import Rule, Seen
from userfault.model.machine import Machine
from userfault.model.profiles import Profile
from userfault.model.tasks.sched import Task


class Row(msgspec.Struct, frozen=True):
    """One step: the column of its task, where it stood, what it changed."""

    task: int
    point: str
    preempts: bool
    changes: tuple[str, ...]


class Timeline(msgspec.Struct, frozen=True):
    """A whole schedule."""

    scenario: str
    sentence: str
    kernel: str
    design: str
    bugs: tuple[str, ...]
    line: str
    tasks: dict[int, str]
    rows: tuple[Row, ...]
    violation: Violation | None
    outcome: Outcome | None


class _Witness:
    """Looks at the machine after every step, as if it were a rule."""

    def __init__(self) -> None:
        self.words = Words({})
        self.states: list[State] = []
        self._machine: Machine | None = None

    def look(self, seen: Seen) -> None:
        del seen
        assert self._machine is not None
        self.states.append(self.words.state(self._machine))

    def began(self, world: World) -> None:
        names: dict[Task, str] = {each.task: each.name for each in world.callers.values()}
        self.words = Words(names)
        self._machine = world.machine
        self.states = [self.words.state(self._machine)]


def tell(
    scenario: Scenario,
    profile: Profile,
    line: Line,
    invariants: Sequence[Rule] = INVARIANTS,
) -> Timeline:
    """Run the schedule of a line and tell it.  Raises UsageError where the line does not fit."""
    witness = _Witness()
    seen = Rule("timeline", "it is looked at", "", witness.look)
    bugs = frozenset(line.bugs)
    runner = Runner(scenario, profile, bugs=bugs, invariants=[seen, *invariants])
    runner.built = witness.began
    strategy = Replay(line.schedule)
    run = runner.run(strategy)
    assert run is not None
    check_same(line, strategy, run)
    assert runner.world is not None
    tasks = {number: caller.name for number, caller in sorted(runner.world.callers.items())}
    return Timeline(
        scenario.name,
        scenario.sentence,
        profile.name,
        scenario.config.design,
        line.bugs,
        str(line),
        tasks,
        tuple(_rows(run, witness.states)),
        run.violation,
        run.outcome,
    )


def _rows(run: Run, states: list[State]) -> list[Row]:
    rows = []
    for number, step in enumerate(run.steps):
        told: tuple[str, ...] = ()
        if number + 1 < len(states):
            told = tuple(changes(states[number], states[number + 1]))
        rows.append(Row(step.task, step.point, step.preempts, told))
    return rows
