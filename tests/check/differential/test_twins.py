"""Programs on two models: of two releases, and of one whose rules are walked."""

from __future__ import annotations

import random

import pytest

from userfault.check.differential.batch import Runner
from userfault.check.differential.draw import program
from userfault.check.differential.program import from_text
from userfault.check.differential.twins import Twins
from userfault.kernel.errors import UsageError
from userfault.model import invariants
from userfault.model.errors import InvariantBroken
from userfault.uapi import userfaultfd as abi


def _runner(twins: Twins) -> Runner:
    return Runner(*twins.factories(), twins=twins)


@pytest.mark.parametrize(
    ("model", "against", "text", "because"),
    [
        (
            "7.2",
            "7.3",
            "0 map anon; 0 store anon+3; 0 map thp; 1 load thp+1; 0 load anon+0",
            "huge_zero_is_file: True on 7.2, False on 7.3",
        ),
        (
            "6.12",
            "6.18",
            "0 uffd u0 0; 0 api u0 0; 0 map shm; 0 map drop; 0 register u0 drop+0 8p 3",
            "droppable_registers: True on 6.12, False on 6.18",
        ),
        ("6.18", "7.2", "0 map shm; 0 map gmem; 0 munmap shm+0 1p", ""),
    ],
)
def test_what_two_releases_do_differently_is_shrunk_and_named(
    model: str, against: str, text: str, because: str
) -> None:
    runner = _runner(Twins(model, against))
    found = runner.run(from_text(text))
    if not because:
        assert found is None
        return
    assert found is not None
    finding = runner.examine(found)
    assert finding.because == (because,)
    assert finding.steady
    assert len(from_text(finding.program)) < len(from_text(text))


def test_what_the_handshake_offers_is_no_difference() -> None:
    text = "0 uffd u0 0; 0 api u0 0; 0 map anon; 0 register u0 anon+0 8p 1; 0 load anon+2"
    for model, against in (("6.1", "7.3"), ("7.2", "next"), ("6.12", "6.17")):
        assert _runner(Twins(model, against)).run(from_text(text)) is None


def test_a_handshake_asks_for_what_both_have() -> None:
    twins = Twins("6.1", "6.12")
    draw = random.Random(1)
    drawn = [program(draw.randrange, features=twins.common.features) for _ in range(200)]
    asked = {int(step.args[1]) for one in drawn for step in one[:2] if step.verb == "api"}  # type: ignore[arg-type]
    assert any(asked)
    assert not any(features & abi.UFFD_FEATURE_WP_ASYNC for features in asked)


def test_random_programs_keep_the_rules_of_the_model_alone() -> None:
    runner = _runner(Twins("7.3"))
    draw = random.Random(2)
    for _ in range(25):
        assert runner.run(program(draw.randrange, rwp=True)) is None
    assert runner.coverage.rwp


def test_a_rule_that_is_broken_is_found_on_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = invariants.check

    def check(spaces: object) -> None:
        real(spaces)  # type: ignore[arg-type]
        if any(vma.kind == "shmem" for mm in spaces.all for vma in mm.vmas.values()):  # type: ignore[attr-defined]
            raise InvariantBroken("there is shared memory")

    monkeypatch.setattr(invariants, "check", check)
    runner = _runner(Twins("7.3"))
    assert runner.run(from_text("0 map anon; 0 store anon+0")) is None
    found = runner.run(from_text("0 map anon; 0 map shm; 0 store anon+0"))
    assert found is not None
    assert found.step == 1
    assert "there is shared memory" in found.lines[-1].live
    finding = runner.examine(found)
    assert finding.program == "0 map shm"
    assert not finding.because


def test_a_profile_that_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match=r"6\.19"):
        Twins("7.2", "6.19")
