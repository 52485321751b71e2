"""Old bugs of Linux, put back one by one, are found; without them nothing is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import userfault.model
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.switches import SWITCHES, Switch
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import search
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.designs.catalogue import DESIGNS
from userfault.model.profiles import profile_named

ROOT = Path(__file__).parents[3]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
FOUND_BY = sorted({switch.found_by for switch in SWITCHES.values()})


def runner(scenario: Scenario, kernel: str, *bugs: str) -> Runner:
    return Runner(scenario, profile_named(kernel), bugs=frozenset(bugs), invariants=INVARIANTS)


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=lambda switch: switch.name)
def test_an_old_bug_is_found_within_so_many_schedules(switch: Switch) -> None:
    scenario = BY_NAME[switch.found_by]
    found = search(
        runner(scenario, switch.kernel, switch.name), Reduced(), schedules=switch.schedules
    )
    assert found.violation is not None
    assert found.violation.kind == "invariant"


@pytest.mark.parametrize(
    ("name", "kernel"),
    [(name, kernel) for name in FOUND_BY for kernel in BY_NAME[name].kernels or ("7.3", "next")],
)
def test_nothing_is_found_where_no_bug_is_put_back(name: str, kernel: str) -> None:
    found = search(runner(BY_NAME[name], kernel), Reduced(), schedules=2_000)
    assert found.violation is None
    assert found.exhausted


@pytest.mark.parametrize(
    ("name", "kernel"), [("copy-retry-unchecked", "6.18"), ("events-do-not-wait", "6.1")]
)
def test_a_kernel_that_has_the_bug_shows_it_without_the_switch(name: str, kernel: str) -> None:
    scenario = BY_NAME[SWITCHES[name].found_by]
    assert search(runner(scenario, kernel), Reduced(), schedules=200).violation is not None


@pytest.mark.parametrize("name", ["foreign-unregister", "registers-droppable"])
def test_what_a_profile_says_of_its_kernel_is_no_violation(name: str) -> None:
    scenario = BY_NAME[SWITCHES[name].found_by]
    assert search(runner(scenario, "6.12"), Reduced(), schedules=200).violation is None


def asked() -> Iterator[str]:
    """Every bug that the model's code asks for: `"name" in ...bugs`."""
    for file in Path(userfault.model.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Compare) or not isinstance(node.left, ast.Constant):
                continue
            if "bugs" in ast.unparse(node.comparators[0]):
                yield str(node.left.value)


def test_the_model_asks_for_every_bug_and_no_other() -> None:
    of_designs = {bug for design in DESIGNS.values() for bug in design.bugs}
    assert set(asked()) == set(SWITCHES) | of_designs


def test_the_documentation_has_the_row_of_every_bug() -> None:
    text = (ROOT / "docs/explorer.md").read_text().replace("\\|", "|")
    missing = [
        switch.name
        for switch in SWITCHES.values()
        if f"| `{switch.name}` | {switch.sentence} | {switch.fix} | `{switch.found_by}` |"
        f" {switch.schedules} |" not in text
    ]
    assert missing == []
