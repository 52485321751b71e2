"""One search divided into parts that several processes can walk.

The first choices of the schedules are tried in every way (but for what sleep sets rule out); below
each beginning a part is searched on its own.  Nothing is lost by it, some reduction is: races that
reach back into the beginning are taken care of by trying everything there.
"""

from __future__ import annotations

from collections.abc import Sequence

from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import Run, Step
from userfault.check.explore.strategies.reduced import Root, SavedStep
from userfault.check.explore.strategies.strategy import CUT, Here, Once


class Probe(Once):
    """Runs a given beginning, and tells who could go on."""

    def __init__(self, schedule: Sequence[int]) -> None:
        self._schedule = schedule
        self.enabled: tuple[int, ...] = ()

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth == len(self._schedule):
            self.enabled = here.enabled
            return CUT
        return self._schedule[depth]

    def end(self, run: Run) -> None:
        del run


def divide(runner: Runner, parts: int) -> list[Root]:
    """At least so many parts, or as many as there are schedules; in the order of a search."""
    bare = runner.bare()
    roots = [Root()]
    while len(roots) < parts:
        shortest = min(range(len(roots)), key=lambda at: len(roots[at].schedule))
        below = _below(bare, roots[shortest])
        if below is None or len(roots[shortest].schedule) > 2 * parts:
            break
        roots[shortest : shortest + 1] = below
    return roots


def _below(runner: Runner, root: Root) -> list[Root] | None:
    """The parts that begin with one step more; None where there is none to make."""
    probe = Probe(root.schedule)
    runner.run(probe)
    if not probe.enabled:
        return None
    sleep = {one.task: one.step() for one in root.sleep}
    found = []
    for task in probe.enabled:
        if task in sleep:
            continue
        step = _step(runner, (*root.schedule, task))
        left = [one for one in sleep.values() if not one.conflicts(step)]
        found.append(Root((*root.schedule, task), tuple(map(SavedStep.of, left))))
        sleep[task] = step
    return found


def _step(runner: Runner, schedule: tuple[int, ...]) -> Step:
    run = runner.run(Probe(schedule))
    assert run is not None
    return run.steps[len(schedule) - 1]
