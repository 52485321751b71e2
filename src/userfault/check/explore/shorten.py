"""The shortest schedule that breaks the same thing: fewest preemptions, then fewest steps."""

from __future__ import annotations

from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import NOBODY, Run, Violation
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.strategy import Here, Once

_TRIES = 4_000  # schedules for each number of preemptions


class Follow(Once):
    """The given order as far as it goes: who cannot run is passed over."""

    records = False

    def __init__(self, order: list[int]) -> None:
        self._left = order[::-1]

    def choose(self, here: Here) -> int:
        while self._left:
            task = self._left.pop()
            if task in here.enabled:
                return task
        return here.current if here.current != NOBODY else here.enabled[0]

    def end(self, run: Run) -> None:
        del run


def shortest(runner: Runner, found: Run, tries: int = _TRIES) -> Run:
    """The shortest run like `found` that searching and mending bring; `found` if none is."""
    assert found.violation is not None
    best = found
    for bound in range(best.preemptions + 1):
        better = _within(runner, best, bound, tries)
        if better is not None:
            best = better
            break
    return _mended(runner, best)


def _size(run: Run) -> tuple[int, int]:
    return run.preemptions, len(run.steps)


def _same(run: Run | None, violation: Violation | None) -> bool:
    if run is None or run.violation is None or violation is None:
        return False
    return (run.violation.kind, run.violation.name) == (violation.kind, violation.name)


def _within(runner: Runner, best: Run, bound: int, tries: int) -> Run | None:
    """The shortest among the schedules with so few preemptions."""
    strategy = DepthFirst(bound)
    better: Run | None = None
    for _ in range(tries):
        run = runner.run(strategy)
        if run is None:
            break
        if _same(run, best.violation) and _size(run) < _size(better or best):
            better = run
    return better


def _mended(runner: Runner, best: Run) -> Run:
    """Take single steps out of their place while that makes it shorter."""
    again = True
    while again:
        again = False
        order = best.schedule
        for at, step in enumerate(best.steps):
            if not step.preempts:
                continue
            # Who was interrupted makes one more step first.
            run = runner.run(Follow([*order[:at], step.current, *order[at:]]))
            if run is not None and _same(run, best.violation) and _size(run) < _size(best):
                best, again = run, True
                break
    return best
