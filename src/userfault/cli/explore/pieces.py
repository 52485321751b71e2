"""What is to be explored, piece by piece: a scenario on a kernel, whole or in parts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from userfault.check.explore import dividing
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.job import COUNT, SCHEDULES, Failure, Job, Progress
from userfault.check.explore.search import Plain, search
from userfault.check.explore.steps import Outcome
from userfault.check.explore.strategies.reduced import Reduced

_SMALL = 300  # schedules: what has no more is not worth being divided
_PARTS = 4  # for each process: parts are not alike, so that there have to be some to spare


class Part(msgspec.Struct):
    """A part of a piece: what is to be done, and what was come to before and now."""

    job: Job
    done: bool = False
    before: Progress = msgspec.field(default_factory=Progress)
    now: Progress = msgspec.field(default_factory=Progress)

    def left(self) -> Job:
        """What is still to be done."""
        return msgspec.structs.replace(self.job, saved=self.before.saved)

    def sums(self) -> Progress:
        """Both together."""
        before, now = self.before, self.now
        counts = dict(before.outcomes)
        for outcome, count in now.outcomes:
            counts[outcome] = counts.get(outcome, 0) + count
        return Progress(
            before.schedules + now.schedules,
            before.cut + now.cut,
            max(before.depth, now.depth),
            before.seconds + now.seconds,
            now.exhausted or (self.done and before.exhausted),
            now.ended,
            list(counts.items()),
            now.failure,
            now.plain,
            now.saved or (before.saved if not now.ended else ()),
        )


class Result(msgspec.Struct, frozen=True):
    """What a piece has come to."""

    scenario: str
    kernel: str
    design: str
    bugs: tuple[str, ...]
    strategy: str
    schedules: int
    cut: int
    depth: int
    seconds: float
    exhausted: bool
    outcomes: list[tuple[Outcome, int]]
    failure: Failure | None
    plain: Plain | None
    left: int  # choices that are known to be untried: each stands for at least one schedule

    @property
    def reduction(self) -> float:
        """How many plain schedules there are for each that was made; 0.0: not counted."""
        made = self.schedules + self.cut
        return self.plain.schedules / made if self.plain is not None and made else 0.0


class Piece:
    """One scenario on one kernel."""

    def __init__(self, scenario: Scenario, parts: Sequence[Part]) -> None:
        self.scenario = scenario
        self.parts = list(parts)

    @property
    def job(self) -> Job:
        """What all parts have in common."""
        return self.parts[0].job

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be run."""
        return all(part.done for part in self.parts)

    def stop(self) -> None:
        """Something broke: what has not begun need not begin."""
        for part in self.parts:
            part.done = True

    def result(self) -> Result:
        """The sums of its parts."""
        sums = [part.sums() for part in self.parts]
        outcomes: dict[Outcome, int] = {}
        for one in sums:
            for outcome, count in one.outcomes:
                outcomes[outcome] = outcomes.get(outcome, 0) + count
        job = self.job
        return Result(
            job.scenario,
            job.kernel,
            self.scenario.config.design,
            job.bugs,
            job.strategy if job.preemptions is None else "plain",
            sum(one.schedules for one in sums),
            sum(one.cut for one in sums),
            max(one.depth for one in sums),
            sum(one.seconds for one in sums),
            all(one.exhausted for one in sums),
            sorted(outcomes.items()),
            min(
                (one.failure for one in sums if one.failure is not None),
                key=lambda failure: (failure.preemptions, failure.steps),
                default=None,
            ),
            next((one.plain for one in sums if one.plain is not None), None),
            sum(_untried(one) for one in sums),
        )


def _untried(progress: Progress) -> int:
    if progress.exhausted:
        return 0
    known = 0
    for node in progress.saved:
        done = {one.task for one in (*node.done, *node.sleep)} | {node.chosen}
        known += len(set(node.backtrack) - done)
    return max(known, 1)


def plan(job: Job, scenario: Scenario, processes: int) -> Piece:
    """A piece in one part, or in parts enough for so many processes if it is large."""
    runner = job.runner()
    small = search(runner, Reduced(), schedules=_SMALL)
    if processes == 1 or small.exhausted or small.violation is not None:
        return Piece(scenario, [Part(job)])
    roots = dividing.divide(runner, _PARTS * processes)
    bound = -(-(job.schedules or SCHEDULES) // len(roots))
    parts = [
        Part(msgspec.structs.replace(job, root=root, schedules=bound, plain=0)) for root in roots
    ]
    if job.plain:
        parts.append(Part(msgspec.structs.replace(job, strategy=COUNT)))
    return Piece(scenario, parts)
