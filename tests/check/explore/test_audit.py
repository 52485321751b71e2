"""Steps that record nothing in common commute: the whole state is the same in both orders."""

from __future__ import annotations

import pytest

from check.explore.small import SMALL
from userfault.check.explore.audit import Audit, Claim
from userfault.check.explore.building.scenario import Scenario, profile_named
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.strategies.chance import Random
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.strategy import Strategy
from userfault.model.mm.pgtable import Entry, PageTable
from userfault.model.tasks.recorder import RECORD

_RUNS = 10


class _Recorded(Random):
    """Random schedules whose steps are looked at."""

    records = True


def _claims(scenario: Scenario) -> tuple[int, list[Claim]]:
    runner = Runner(scenario, profile_named("next"))
    audit = Audit(runner)
    wrong: list[Claim] = []
    strategies: list[Strategy] = [Reduced(), _Recorded(1, _RUNS)]
    for strategy in strategies:
        for _ in range(_RUNS):
            run = runner.run(strategy)
            if run is None:
                break
            wrong += audit.wrong(run)
    return audit.checked, wrong


@pytest.mark.parametrize("scenario", [*SMALL, *SCENARIOS], ids=lambda scenario: scenario.name)
def test_what_is_taken_for_independent_commutes(scenario: Scenario) -> None:
    checked, wrong = _claims(scenario)
    assert checked > 4 or scenario.group == "old-bugs"  # some of those have one task
    assert not wrong, str(wrong[0])


def test_an_access_that_is_not_recorded_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_entry = PageTable.set

    def forget(self: PageTable, address: int, shift: int, entry: Entry | None) -> None:
        on, RECORD.on = RECORD.on, False
        set_entry(self, address, shift, entry)
        RECORD.on = on

    monkeypatch.setattr(PageTable, "set", forget)
    assert _claims(SMALL[0])[1]
