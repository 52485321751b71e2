"""A whole search: schedule after schedule until there are no more, something breaks, or a bound."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from userfault.check.explore.building.scenario import Build, scenario
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import Outcome, Run, Violation
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.strategy import Strategy
from userfault.kernel.errors import UsageError
from userfault.model.profiles import profile_named

_EVERY = 64  # schedules between two looks at the clock


class Found(msgspec.Struct):
    """What a search has seen so far."""

    schedules: int = 0  # that came to an end
    cut: int = 0  # that were given up as equal to one seen before
    depth: int = 0  # steps of the longest
    seconds: float = 0.0
    exhausted: bool = False  # nothing of what the strategy looks for is left
    outcomes: dict[Outcome, int] = msgspec.field(default_factory=dict)
    violation: Violation | None = None
    run: Run | None = None  # the first that broke something
    after: int = 0  # schedules until then

    @property
    def rate(self) -> float:
        """Schedules a second."""
        return self.schedules / self.seconds if self.seconds else 0.0


def search(
    runner: Runner,
    strategy: Strategy,
    *,
    schedules: int | None = None,
    onwards: bool = False,
    told: Callable[[Found], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Found:
    """Run the strategy's schedules.

    `schedules`: a bound; `onwards`: do not stop at the first violation; `told`: called now and
    then with what was seen so far; `stop`: asked after each schedule.
    """
    found = Found()
    began = time.perf_counter()
    while schedules is None or found.schedules < schedules:
        run = runner.run(strategy)
        if run is None:
            found.exhausted = strategy.exhausts
            break
        _note(found, run)
        if found.violation is None and not found.schedules & (found.schedules - 1):
            _twice(found, runner, run)
        if found.violation is not None and not onwards:
            break
        if stop is not None and stop():
            break
        if told is not None and not (found.schedules + found.cut) % _EVERY:
            found.seconds = time.perf_counter() - began
            told(found)
    found.seconds = time.perf_counter() - began
    return found


def _note(found: Found, run: Run) -> None:
    if run.cut:
        found.cut += 1
        return
    found.schedules += 1
    found.depth = max(found.depth, len(run.steps))
    if run.outcome is not None:
        found.outcomes[run.outcome] = found.outcomes.get(run.outcome, 0) + 1
    if run.violation is not None and found.violation is None:
        found.violation = run.violation
        found.run = run
        found.after = found.schedules


def _twice(found: Found, runner: Runner, run: Run) -> None:
    """The first schedule, the second, the fourth ... are run once more: they must go alike."""
    if run.outcome is not None:
        found.violation = runner.again(run)
        if found.violation is not None:
            found.run, found.after = run, found.schedules


def explored(build: Build, kernel: str | None = None, design: str = "") -> Found:
    """One schedule of each kind of a scenario, with every invariant, until one breaks.

    `build`: the function that `@scenario()` decorates; `kernel`, `design`: others than its own.
    """
    for known in scenario.by_name.values():
        if known.build is build:
            profile = profile_named(kernel or known.kernel)
            runner = Runner(known.under(design), profile, invariants=INVARIANTS)
            return search(runner, Reduced())
    raise UsageError("this function is no scenario", cure="decorate it with @scenario()")


class Plain(msgspec.Struct, frozen=True):
    """How many schedules plain depth-first search has, counted up to a bound."""

    schedules: int
    complete: bool


def count_plain(runner: Runner, bound: int, stop: Callable[[], bool] | None = None) -> Plain:
    """Count them by running them: nothing is recorded and no invariant looked at."""
    found = search(runner.bare(), DepthFirst(), schedules=bound, onwards=True, stop=stop)
    return Plain(found.schedules, found.exhausted)
