"""Runs one schedule of a scenario: builds its world, asks who goes next, notes what happened."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.invariants import Broken, Watch
from userfault.check.explore.steps import NOBODY, TWO_TRACES, Run, Step, Violation
from userfault.check.explore.strategies.replay import Replay
from userfault.check.explore.strategies.strategy import CUT, Strategy
from userfault.model.errors import ContractBreach, Deadlock
from userfault.model.invariants import RULES, Rule
from userfault.model.profiles import Profile
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task

POINTS = 400  # steps after which a schedule is taken to have no end
_BASE = 32  # bits of a thing's number below those of the task that made it


class _Stop(BaseException):
    """Leaves the machine in the middle; not an Exception, which the model would catch."""


class Runner:
    """One scenario on one kernel, run again and again.

    `invariants`: looked at after every step.  `points`: steps of a schedule, more than which are
    called endless.
    """

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile,
        *,
        bugs: frozenset[str] = frozenset(),
        invariants: Iterable[Rule] = (),
        points: int = POINTS,
    ) -> None:
        self.scenario = scenario
        self.profile = profile
        self.bugs = bugs
        self.points = points
        self._watch = Watch(invariants)
        self.look: Callable[[World], object] | None = None  # at each end, before all is dropped
        self.built: Callable[[World], None] | None = None  # told of each world before it runs
        self._last = Run()
        self.world: World | None = None  # of the last schedule, as it ended

    def run(self, strategy: Strategy) -> Run | None:
        """The strategy's next schedule; None when it has no more."""
        repeated = strategy.begin()
        if repeated is None:
            return None
        schedule = _Schedule(self, strategy, self._last.steps[:repeated], self._watch)
        self._last = run = schedule.run()
        strategy.end(run)
        return run

    def again(self, run: Run) -> Violation | None:
        """Run the same schedule once more: what there is to say if it goes another way."""
        strategy = Replay(run.schedule)
        strategy.begin()
        repeated = _Schedule(self, strategy, (), self._watch).run()
        for depth, (one, other) in enumerate(zip(run.steps, repeated.steps, strict=False)):
            if (one.task, one.point, one.enabled) != (other.task, other.point, other.enabled):
                return _two_traces(depth, one, f"{other.point!r} with {other.enabled}")
        if run.outcome != repeated.outcome or len(run.steps) != len(repeated.steps):
            told = f"{repeated.outcome} after {len(repeated.steps)} steps"
            return Violation(TWO_TRACES, "end", f"{_TWICE}: {run.outcome}, and then {told}")
        return None

    def bare(self) -> Runner:
        """The same without invariants: what is left is the machine's own time."""
        return Runner(self.scenario, self.profile, bugs=self.bugs, points=self.points)

    def build(self) -> World:
        """A fresh world; what is made in it has numbers below those of every task."""
        RECORD.numbers = 0
        return self.scenario.world(self.profile, self.bugs)


class _Schedule:
    """One schedule; the scheduler of its machine (see `userfault.model.sched.Scheduler`)."""

    preemptive = True

    def __init__(
        self, runner: Runner, strategy: Strategy, repeated: Sequence[Step], watch: Watch
    ) -> None:
        self.result = Run()
        self.steps = self.result.steps
        self.enabled: tuple[int, ...] = ()
        self.current = NOBODY
        self._runner = runner
        self._repeated = repeated
        self._length = len(repeated)
        self.result.repeated = self._length
        self._choose = strategy.choose
        self._watch = watch
        self._records = strategy.records or bool(watch)
        self._world = runner.build()
        self._numbers = self._world.numbers
        self._machine = self._world.machine
        self._given: dict[int, int] = {}  # how many numbers each task has given away
        self._stands: dict[int, str] = {}  # at which point each task stands
        if runner.built is not None:
            runner.built(self._world)
        self._ran: Task | None = None
        self._stopped = False

    def new_run(self) -> None:
        """Nothing is kept."""

    # --- the machine asks ------------------------------------------------------------------------

    def next_task(self, tasks: Sequence[Task], point: str) -> int:
        """Who runs; the step that has just ended is finished first."""
        if self._stopped:  # who was on its way out came to a lock that it would have to wait for
            raise _Stop
        depth = len(self.steps)
        if self._ran is not None:
            self._finish(point)
        numbers = self._numbers
        present = [numbers[task] for task in tasks]
        self.enabled = tuple(sorted(present)) if len(present) > 1 else tuple(present)
        if depth < self._length:
            number = self._repeat(self._repeated[depth])
        else:
            number = self._choose(self)
            if number == CUT:
                self._cut()
            if depth >= self._runner.points:
                self._endless()
        self._begin(number)
        at = present.index(number)
        self._ran = tasks[at]
        return at

    def _cut(self) -> None:
        self.result.cut = True
        self._look_round()
        self._stop()

    def _stop(self) -> NoReturn:
        """Leave the machine: on the way out nobody is asked any more."""
        self._stopped = True
        self._machine.sched.preemptive = False
        raise _Stop

    def _look_round(self) -> None:
        if self._runner.look is not None:
            self.result.looked = self._runner.look(self._world)

    def _begin(self, number: int) -> None:
        RECORD.numbers = self._given.get(number) or (number + 1) << _BASE
        depth = len(self.steps)
        if depth < self._length:
            self.steps.append(self._repeated[depth])
            return
        stands = self._stands.get(number, "start")
        step = Step(number, stands, self.enabled, self.current, spun=stands == "woken.spins")
        self.steps.append(step)
        if self._records:
            RECORD.on = True
            tid = self._world.callers[number].task.tid
            RECORD.reads = {("task", tid)}
            if stands[0] in "ws":  # woken, started
                RECORD.reads.add(("wake", tid))
            RECORD.writes = set()
            RECORD.adds = set()
            RECORD.notes = []

    def _finish(self, point: str) -> None:
        """The step that ran is over: its task stands at `point`, sleeps, or has ended."""
        task = self._ran
        assert task is not None
        self._ran = None
        step = self.steps[-1]
        number = step.task
        self._given[number] = RECORD.numbers
        if point != "pick":
            self._stands[number] = point
            self.current = number
        else:
            waits = task.waits
            self._stands[number] = f"woken.{waits.kind}" if waits is not None else "woken"
            self.current = NOBODY
        if len(self.steps) > self._length:
            self._look(step)

    def _look(self, step: Step) -> None:
        """At what a step has done that is made for the first time."""
        mistake = self._world.callers[step.task].mistake
        if mistake is not None:
            self._raised(step.task, mistake)
            self._stop()
        if not RECORD.on:
            return
        RECORD.on = False
        step.reads = RECORD.reads
        step.writes = RECORD.writes
        step.adds = RECORD.adds
        broken = self._watch.broken(self._machine, step, RECORD.notes)
        if broken is not None:
            self._broke(broken)
            self._stop()

    def _broke(self, broken: Broken) -> None:
        name, sentence, why = broken
        self.result.violation = Violation("invariant", name, f"{sentence}: {why}")

    def _repeat(self, before: Step) -> int:
        """The same choice as in the run before, which must have come to the same place."""
        if before.enabled != self.enabled or (
            before.point != self._stands.get(before.task, "start")
        ):
            now = f"{self._stands.get(before.task, 'start')!r} with {self.enabled}"
            self.result.violation = _two_traces(len(self.steps), before, now)
            self._stop()
        return before.task

    # --- a whole run -----------------------------------------------------------------------------

    def run(self) -> Run:
        """From the beginning to the end, wherever that is."""
        sched = self._machine.sched
        sched.use(self, every_point=True)
        deadlock: Deadlock | None = None
        try:
            sched.run()
        except Deadlock as stuck:
            deadlock = stuck
        except _Stop:
            self._ran = None
        try:
            if self._ran is not None:
                self._finish("pick")
            if self.result.violation is None and not self.result.cut:
                self._conclude(deadlock)
                self._look_round()
        except _Stop:
            pass
        finally:
            RECORD.on = False
            sched.preemptive = False
            self._world.abandon()
            self._runner.world = self._world
        return self.result

    def _conclude(self, deadlock: Deadlock | None) -> None:
        result = self.result
        world = self._world
        if deadlock is not None:
            result.violation = Violation("deadlock", self._sleepers(), str(deadlock))
            return
        stuck = [
            caller
            for caller in world.callers.values()
            if caller.task.waits is not None and not caller.may_wait
        ]
        if stuck:
            names = ", ".join(caller.name for caller in stuck)
            told = "; ".join(
                f"{caller.name} waits for {caller.task.waits.tell()}"
                for caller in stuck
                if caller.task.waits is not None
            )
            result.violation = Violation("stuck", names, told)
            return
        broken = self._watch.broken_at_the_end(self._machine) if self._watch else None
        if broken is not None:
            self._broke(broken)
            return
        complaint = world.complaint()
        if complaint is not None:
            result.violation = Violation("check", self._runner.scenario.name, complaint)
            return
        result.outcome = world.outcome()

    def _sleepers(self) -> str:
        return ", ".join(
            caller.name for caller in self._world.callers.values() if caller.task.waits is not None
        )

    def _raised(self, number: int, mistake: BaseException) -> None:
        name = self._world.callers[number].name
        if isinstance(mistake, ContractBreach):  # a driver's mistake, found around its hook
            rule = RULES["contract"]
            told = f"{rule.sentence}: {name}: {mistake}: {mistake.rule}"
            self.result.violation = Violation("invariant", rule.name, told)
            return
        text = "".join(traceback.format_exception(mistake)).rstrip()
        self.result.violation = Violation("raised", type(mistake).__name__, f"{name}: {text}")

    def _endless(self) -> None:
        points = self._runner.points
        self.result.violation = Violation(
            "endless", str(points), f"the schedule has not ended after {points} steps"
        )
        self._stop()


_TWICE = "the same schedule gave two traces, since something else than it decides what happens"


def _two_traces(depth: int, before: Step, now: str) -> Violation:
    return Violation(
        TWO_TRACES,
        f"step {depth}",
        f"{_TWICE}: at step {depth} task {before.task} stood at {before.point!r} with"
        f" {before.enabled} ready, and then at {now} ready",
    )
