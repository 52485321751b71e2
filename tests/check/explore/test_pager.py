"""The interleavings of docs/pager.md hold under every schedule, and planted mistakes are found."""

from __future__ import annotations

import pytest

from check.simulate.mistakes import MISTAKES, Mistake
from userfault.check.explore.building.scenario import Scenario, scenario
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import Found, search
from userfault.check.explore.strategies.chance import Random
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.profiles import profile_named

PAGER = [one for one in SCENARIOS if one.group == "pager"]
_RANDOM = 200  # schedules
_MOST = 5_000  # schedules of one scenario, counting those that were cut


def _searched(chosen: Scenario) -> Found:
    runner = Runner(chosen, profile_named(chosen.kernel), invariants=INVARIANTS)
    return search(runner, Reduced(), schedules=_MOST)


@pytest.mark.parametrize("chosen", PAGER, ids=lambda one: one.name)
def test_every_schedule_of_the_pager_is_right(chosen: Scenario) -> None:
    found = _searched(chosen)
    assert found.violation is None, str(found.violation)
    assert found.exhausted
    runner = Runner(chosen, profile_named(chosen.kernel))
    others = search(runner, Random(1, _RANDOM), onwards=True)
    assert others.violation is None, str(others.violation)
    assert others.outcomes.keys() <= found.outcomes.keys()


def test_a_fault_and_a_drop_have_both_ends() -> None:
    found = _searched(scenario.by_name["pager-fault-against-drop"])
    seen = {dict(outcome)["toucher"] for outcome in found.outcomes}
    assert seen == {"b'source 0'", "b''"}


@pytest.mark.parametrize(
    "mistake", [each for each in MISTAKES if each.scenario], ids=lambda mistake: mistake.name
)
def test_a_planted_mistake_is_found(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake.plant(monkeypatch)
    assert _searched(scenario.by_name[mistake.scenario]).violation is not None
