"""Every design keeps every statement, but for those rows that say what it cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.designs.rows import ROWS
from userfault.check import kernels
from userfault.check.run import run
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.kernel.errors import UsageError
from userfault.model import designs
from userfault.model.designs.catalogue import DESIGNS
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import LINUX_6_18, LINUX_7_3, NEXT, Config

_FOLDER = Path(next(iter(designs.__path__)))


# Without a word about a design it is ours: test_statements.py runs all of that.
@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "ours"])
def test_it_keeps_every_statement_but_for_its_rows(design: str) -> None:
    results = list(run(load(), kernels.model(design=design).make))

    failed = {
        (result.number, result.memory)
        for result in results
        if result.verdict in (Verdict.FAILED, Verdict.LOST)
    }
    assert failed == set(ROWS[design])
    passed = sum(result.verdict is Verdict.PASSED for result in results)
    assert passed >= len(results) - len(failed) - 1  # the one that needs swap space


def test_each_row_has_its_reason_and_each_design_its_rows() -> None:
    assert list(ROWS) == list(DESIGNS)
    assert all(reason for rows in ROWS.values() for reason in rows.values())


def test_a_design_is_one_file_of_under_200_lines() -> None:
    for path in _FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) < 200, path.name
    assert {path.stem for path in _FOLDER.glob("[!_]*.py")} == {*DESIGNS, "design", "catalogue"}


def test_an_unknown_design_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="no design is called 'mergd'") as caught:
        ModelCalls(NEXT, Config(design="mergd"))
    assert "closed_choice" in str(caught.value.cure)


@pytest.mark.parametrize("design", ["posted", "hardcoded", "get_folio_only"])
def test_no_feature_bit_tells_of_guest_memfd_where_it_is_not_served(design: str) -> None:
    assert ModelCalls(NEXT, Config(design=design)).machine.profile.says_guest_memfd == 0
    assert ModelCalls(NEXT).machine.profile.says_guest_memfd


@pytest.mark.parametrize("profile", [LINUX_6_18, LINUX_7_3], ids=lambda profile: profile.name)
@pytest.mark.parametrize("design", DESIGNS)
def test_a_released_kernel_serves_no_guest_memfd_after_any_design(design, profile) -> None:  # type: ignore[no-untyped-def]
    guest = ModelCalls(profile, Config(design=design)).machine.types["guest_memfd"]

    assert guest.uffd.can_userfault is None
    assert not guest.runs
