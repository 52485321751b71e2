"""A piece of work for one process: a scenario, or a part of one, under one strategy."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building import loading
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.switches import bugs_named
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import Found, Plain, count_plain, search
from userfault.check.explore.shorten import shortest
from userfault.check.explore.steps import Outcome, Run, Violation
from userfault.check.explore.strategies.chance import Priorities, Random
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced, Root, SavedNode
from userfault.check.explore.strategies.replay import line_of
from userfault.check.explore.strategies.strategy import Strategy
from userfault.kernel.errors import UsageError
from userfault.model.profiles import profile_named

STRATEGIES = ("reduced", "plain", "random", "pct")
COUNT = "count"  # no strategy: plain schedules are counted, and nothing is checked
SCHEDULES = 100_000  # of strategies that have no end of their own


class Job(msgspec.Struct, frozen=True):
    """What to run.

    `file`: where the scenario is defined, "" for the package's own; `plain`: up to so many
    schedules of plain search are counted for comparison; `saved`: where an earlier process left.
    """

    scenario: str
    kernel: str
    file: str = ""
    design: str = ""  # of the model's core; "": the scenario's own
    bugs: tuple[str, ...] = ()
    strategy: str = "reduced"
    preemptions: int | None = None
    schedules: int | None = None
    seed: int = 1
    onwards: bool = False
    plain: int = 0
    root: Root = Root()
    saved: tuple[SavedNode, ...] = ()

    def find(self) -> Scenario:
        """The scenario.  Raises UsageError."""
        names = [self.file] if self.file else [self.scenario]
        for one, _ in loading.named(names):
            if one.name == self.scenario:
                return one.under(self.design)
        raise UsageError(f"{self.file} defines no scenario {self.scenario!r}")

    def runner(self) -> Runner:
        """What runs it."""
        return Runner(
            self.find(),
            profile_named(self.kernel),
            bugs=bugs_named(self.bugs),
            invariants=INVARIANTS,
        )

    def make(self) -> Strategy:
        """Its strategy.  Raises UsageError."""
        if self.preemptions is not None and self.strategy in ("random", "pct"):
            raise UsageError(f"--preemptions does not go with --strategy {self.strategy}")
        if self.strategy == "plain" or self.preemptions is not None:
            return DepthFirst(self.preemptions)
        if self.strategy == "random":
            return Random(self.seed, self.schedules or SCHEDULES)
        if self.strategy == "pct":
            return Priorities(self.seed, self.schedules or SCHEDULES)
        return Reduced(self.root, self.saved)


class Failure(msgspec.Struct, frozen=True):
    """What broke, and the shortest schedule that was found for it."""

    violation: Violation
    line: str  # to be pasted
    steps: int
    preemptions: int
    after: int  # schedules until it was met first


class Progress(msgspec.Struct):
    """What a job has come to, since it began or was last left."""

    schedules: int = 0
    cut: int = 0
    depth: int = 0
    seconds: float = 0.0
    exhausted: bool = False
    ended: bool = False  # this is its last word
    outcomes: list[tuple[Outcome, int]] = []
    failure: Failure | None = None
    plain: Plain | None = None
    saved: tuple[SavedNode, ...] = ()


def run(job: Job, told: Callable[[Progress], None], stop: Callable[[], bool]) -> Progress:
    """Do it; `told` hears now and then how far it is, `stop` says whether to leave it."""
    runner = job.runner()
    if job.strategy == COUNT:
        return Progress(exhausted=True, ended=True, plain=count_plain(runner, job.plain, stop))
    strategy = job.make()
    found = search(
        runner,
        strategy,
        schedules=job.schedules,
        onwards=job.onwards,
        told=lambda so_far: told(_progress(so_far)),
        stop=stop,
    )
    if isinstance(strategy, Reduced) and strategy.departed:
        raise UsageError(
            f"{job.scenario} cannot be continued",
            cause="the model or the scenario has changed since it was left",
            cure="explore it anew, without --continue",
        )
    result = _progress(found)
    result.ended = True
    result.outcomes = list(found.outcomes.items())
    if found.violation is not None and found.run is not None:
        result.failure = _failure(job, runner, found.run, found.violation, found.after)
    elif job.plain and found.exhausted and not stop():
        result.plain = count_plain(runner, job.plain, stop)
    if isinstance(strategy, Reduced) and not found.exhausted and result.failure is None:
        result.saved = tuple(strategy.saved())
    return result


def _failure(job: Job, runner: Runner, run: Run, violation: Violation, after: int) -> Failure:
    short = shortest(runner, run) if run.violation is not None else run
    line = line_of(runner.scenario, job.kernel, runner.bugs, short)
    violation = short.violation or violation
    return Failure(violation, str(line), len(short.steps), short.preemptions, after)


def _progress(found: Found) -> Progress:
    return Progress(found.schedules, found.cut, found.depth, found.seconds, found.exhausted)
