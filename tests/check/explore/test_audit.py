"""Steps that record nothing in common commute: the whole state is the same in both orders."""

from __future__ import annotations

import pytest

from check.explore.small import SMALL
from userfault.check.explore.audit import Claim, audited
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import search
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.mm.pgtable import Entry, PageTable
from userfault.model.profiles import profile_named
from userfault.model.tasks.recorder import RECORD

_RUNS = 10
_FEW = 50  # schedules of a scenario in which nothing commutes

# Those with a pager have more state than a machine: what they see is compared in `test_pager`.
_WITH_A_PAGER = {"pager", "budget", "sets", "sharing"}
OURS = [one for one in SCENARIOS if one.group not in _WITH_A_PAGER]


def _claims(scenario: Scenario) -> tuple[int, list[Claim]]:
    return audited(Runner(scenario, profile_named("next")), _RUNS)


@pytest.mark.parametrize("scenario", [*SMALL, *OURS], ids=lambda scenario: scenario.name)
def test_what_is_taken_for_independent_commutes(scenario: Scenario) -> None:
    checked, wrong = _claims(scenario)
    assert not wrong, str(wrong[0])
    assert checked or _leaves_nothing_out(scenario)


def _leaves_nothing_out(scenario: Scenario) -> bool:
    """Whether every schedule is made: there is one task, or all steps conflict."""
    runner = Runner(scenario, profile_named("next")).bare()
    reduced = search(runner, Reduced(), schedules=_FEW)
    plain = search(runner, DepthFirst(), schedules=_FEW)
    return reduced.exhausted and plain.exhausted and reduced.schedules == plain.schedules


def test_an_access_that_is_not_recorded_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_entry = PageTable.set

    def forget(self: PageTable, address: int, shift: int, entry: Entry | None) -> None:
        on, RECORD.on = RECORD.on, False
        set_entry(self, address, shift, entry)
        RECORD.on = on

    monkeypatch.setattr(PageTable, "set", forget)
    assert _claims(SMALL[0])[1]
