"""What each strategy claims: all, few preemptions, the same for the same seed."""

from __future__ import annotations

from check.explore.small import small
from check.explore.test_failures import broken
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.steps import Run
from userfault.check.explore.strategies.chance import Priorities, Random
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.strategy import Strategy
from userfault.model.profiles import profile_named

NEXT = profile_named("next")


def _runs(name: str, strategy: Strategy) -> list[Run]:
    runner = Runner(small.by_name[name], NEXT)
    found = []
    while (run := runner.run(strategy)) is not None:
        found.append(run)
    return found


def test_plain_search_makes_each_schedule_once() -> None:
    schedules = [tuple(run.schedule) for run in _runs("fork-with-event", DepthFirst())]
    assert len(schedules) > 50
    assert len(set(schedules)) == len(schedules)


def test_a_bound_of_preemptions_keeps_what_stays_within_it() -> None:
    every = _runs("fork-with-event", DepthFirst())
    for bound in (0, 1, 2):
        bounded = _runs("fork-with-event", DepthFirst(bound))
        expected = {tuple(run.schedule) for run in every if run.preemptions <= bound}
        assert {tuple(run.schedule) for run in bounded} == expected
        assert not DepthFirst(bound).exhausts


def test_one_seed_gives_the_same_schedules() -> None:
    for make in (Random, Priorities):
        first, again, other = (
            [run.schedule for run in _runs("close-while-filling", make(seed, 20))]
            for seed in (1, 1, 2)
        )
        assert first == again
        assert first != other
        assert len({tuple(schedule) for schedule in first}) > 5


def test_random_schedules_find_a_deadlock() -> None:
    for strategy in (Random(1, 200), Priorities(1, 200)):
        found = search(Runner(broken.by_name["two-locks-in-two-orders"], NEXT), strategy)
        assert found.violation is not None
        assert found.violation.kind == "deadlock"
        assert not found.exhausted
