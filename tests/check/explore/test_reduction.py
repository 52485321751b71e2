"""The reduced search sees every outcome that plain search sees, and makes far fewer schedules."""

from __future__ import annotations

import pytest

from check.explore.small import SMALL
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import search
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.profiles import profile_named

_PLAIN = 2_000  # schedules: what has more is compared with so many of them

_FEW = 50  # of which a quarter says nothing

# Of the package's scenarios those of two subjects; test_scenarios.py looks at the ends of all.
_SUBJECTS = ("fills", "guest")
ALL = [*SMALL, *(one for one in SCENARIOS if one.group in _SUBJECTS)]


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_reduced_search_loses_no_outcome(scenario: Scenario) -> None:
    runner = Runner(scenario, profile_named("next"), invariants=INVARIANTS)
    plain = search(runner.bare(), DepthFirst(), schedules=_PLAIN, onwards=True)
    reduced = search(runner, Reduced(), schedules=_PLAIN, onwards=True)
    assert reduced.exhausted
    if plain.schedules > _FEW:
        assert reduced.schedules + reduced.cut < plain.schedules / 2
    if plain.exhausted:
        assert set(reduced.outcomes) == set(plain.outcomes)
    else:
        assert set(reduced.outcomes) >= set(plain.outcomes)
    assert plain.violation is None
    assert reduced.violation is None
