"""A search that is left and continued, or divided, sees what it would have seen in one go."""

from __future__ import annotations

import msgspec
import pytest

from check.explore.small import SMALL
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.dividing import divide
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.steps import Outcome
from userfault.check.explore.strategies.reduced import Reduced, Root, SavedNode
from userfault.model.profiles import profile_named

_NEXT = profile_named("next")


@pytest.mark.parametrize("scenario", SMALL, ids=lambda scenario: scenario.name)
def test_left_and_continued_makes_the_same_schedules(scenario: Scenario) -> None:
    whole = search(Runner(scenario, _NEXT), Reduced())
    saved: tuple[SavedNode, ...] = ()
    schedules = cut = 0
    outcomes: set[Outcome] = set()
    while True:
        strategy = Reduced(saved=saved)
        part = search(Runner(scenario, _NEXT), strategy, schedules=3)
        schedules += part.schedules
        cut += part.cut
        outcomes |= set(part.outcomes)
        if part.exhausted:
            break
        kept = msgspec.json.encode(strategy.saved())
        saved = msgspec.json.decode(kept, type=tuple[SavedNode, ...])
    assert (schedules, cut, outcomes) == (whole.schedules, whole.cut, set(whole.outcomes))


@pytest.mark.parametrize("scenario", SMALL, ids=lambda scenario: scenario.name)
def test_parts_together_are_the_whole(scenario: Scenario) -> None:
    runner = Runner(scenario, _NEXT)
    whole = search(runner, Reduced())
    roots = [msgspec.json.decode(msgspec.json.encode(one), type=Root) for one in divide(runner, 8)]
    assert len(roots) >= 4
    parts = [search(runner, Reduced(root)) for root in roots]
    assert all(part.exhausted for part in parts)
    assert sum(part.schedules for part in parts) >= whole.schedules
    assert set().union(*(part.outcomes for part in parts)) == set(whole.outcomes)
