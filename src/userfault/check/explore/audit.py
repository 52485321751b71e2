"""Whether steps that are taken to be independent are: made in both orders, they must commute.

The reduced search believes what steps have recorded.  Here two neighbouring steps of a schedule
that do not conflict are made the other way round, and the whole state afterwards is compared:
what was forgotten to be recorded shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from userfault.check.explore.fingerprint import fingerprint
from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import Run, Step
from userfault.check.explore.strategies.chance import Random
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.strategy import CUT, Here, Once, Strategy


class Claim(msgspec.Struct, frozen=True):
    """Two steps that did not commute although nothing that they recorded conflicts."""

    schedule: tuple[int, ...]  # up to and with the two
    first: str
    second: str
    difference: str

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second} do not commute after {list(self.schedule[:-2])}:"
            f" {self.difference}"
        )


class _Recorded(Random):
    """Random schedules whose steps are looked at."""

    records = True


class _Prefix(Once):
    """A given beginning, and no more."""

    def __init__(self, schedule: Sequence[int]) -> None:
        self._schedule = schedule

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth == len(self._schedule) or self._schedule[depth] not in here.enabled:
            return CUT
        return self._schedule[depth]

    def end(self, run: Run) -> None:
        del run


class Audit:
    """Checks claims of one scenario; each pair of steps from one state once."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner.bare()
        self._runner.look = fingerprint
        self._seen: set[tuple[int, ...]] = set()
        self.checked = 0

    def wrong(self, run: Run) -> Iterator[Claim]:
        """The claims of one schedule that do not hold."""
        schedule = run.schedule
        steps = run.steps
        for at in range(len(steps) - 1):
            first, second = steps[at], steps[at + 1]
            if first.task == second.task or second.task not in first.enabled:
                continue
            if first.conflicts(second) or second.spun:
                continue
            key = tuple(schedule[: at + 2])
            swapped = (*key[:-2], second.task, first.task)
            if key in self._seen:
                continue
            self._seen |= {key, swapped}
            claim = self._check(key, swapped, first, second)
            if claim is not None:
                yield claim

    def _check(
        self, key: tuple[int, ...], swapped: tuple[int, ...], first: Step, second: Step
    ) -> Claim | None:
        self.checked += 1
        one, other = self._state(key), self._state(swapped)
        if one == other:
            return None
        names = [f"{step.task}@{step.point}" for step in (first, second)]
        return Claim(key, names[0], names[1], _difference(one, other))

    def _state(self, schedule: tuple[int, ...]) -> str:
        run = self._runner.run(_Prefix(schedule))
        assert run is not None
        return str(run.looked)


def _difference(one: str, other: str) -> str:
    """Where the two begin to differ."""
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    low = max(at - 100, 0)
    return f"...{one[low : at + 60]!r} against ...{other[low : at + 60]!r}"


def audited(runner: Runner, runs: int) -> tuple[int, list[Claim]]:
    """Check the claims of so many schedules of the reduced search, and as many random ones.

    Returns how many pairs of steps were made in both orders, and those that do not commute.
    """
    audit = Audit(runner)
    bare = runner.bare()
    wrong: list[Claim] = []
    strategies: list[Strategy] = [Reduced(), _Recorded(1, runs)]
    for strategy in strategies:
        for _ in range(runs):
            run = bare.run(strategy)
            if run is None:
                break
            wrong += audit.wrong(run)
    return audit.checked, wrong
