"""Every scenario of the package holds under every schedule, and reduction loses no end of it."""

from __future__ import annotations

from collections import Counter

import pytest

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import Found, explored, search
from userfault.check.explore.strategies.chance import Random
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.profiles import profile_named

_WHOLE = 400  # schedules of the reduced search: what has no more is seen whole
_PREEMPTIONS = 1  # of the rest: every schedule that interrupts nobody more often than that
_BOUNDED = 200
_OTHERS = 40  # schedules at random, which may end in no other way


def _explored(scenario: Scenario) -> Found:
    """All kinds of schedules, or if they are many those with few preemptions."""
    runner = Runner(scenario, profile_named(scenario.kernel), invariants=INVARIANTS)
    found = search(runner, Reduced(), schedules=_WHOLE)
    if found.exhausted or found.violation is not None:
        return found
    few = search(runner, DepthFirst(_PREEMPTIONS), schedules=_BOUNDED)
    few.outcomes = {**found.outcomes, **few.outcomes}
    return few


OTHERS = [one for one in SCENARIOS if one.group != "pager"]  # `test_pager` sees those whole


@pytest.mark.parametrize("scenario", OTHERS, ids=lambda scenario: scenario.name)
def test_it_holds(scenario: Scenario) -> None:
    found = _explored(scenario)
    assert found.violation is None, str(found.violation)
    bare = Runner(scenario, profile_named(scenario.kernel))
    others = search(bare, Random(1, _OTHERS))
    assert others.violation is None, str(others.violation)
    if found.exhausted:
        assert set(others.outcomes) <= set(found.outcomes)


def test_each_says_what_it_puts_together_and_what_must_hold() -> None:
    for scenario in SCENARIOS:
        assert scenario.sentence.endswith("."), scenario.name
        assert scenario.group, scenario.name
    sentences = Counter(scenario.sentence for scenario in SCENARIOS)
    assert max(sentences.values()) == 1, sentences.most_common(1)


def test_a_call_explores_under_another_design() -> None:
    beyond = next(one for one in SCENARIOS if one.name == "touch-beyond-the-end")
    assert explored(beyond.build).exhausted
    found = explored(beyond.build, design="posted")
    assert found.violation is not None
    assert found.violation.name == "end-of-file"
