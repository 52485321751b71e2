"""Which of its outcomes a statement means on a release."""

from __future__ import annotations

import msgspec
import pytest

from userfault.check.statements import load
from userfault.check.words.statement import REGISTRY
from userfault.model.profiles import PROFILES

STATEMENTS = load()
_WAYS = {"up to 6.18": "a", "since 7.2": "b", "with guest_memfd support": "c"}


@pytest.mark.parametrize(
    ("release", "found"),
    [((6, 1), "up to 6.18"), ((6, 18), "up to 6.18"), ((7, 1), ""), ((7, 3), "since 7.2")],
)
def test_the_outcome_is_that_of_the_release(release: tuple[int, int], found: str) -> None:
    statement = msgspec.structs.replace(REGISTRY[85], outcomes=_WAYS)

    assert statement.outcome_on(release) == found


def test_a_release_that_is_named_alone_is_meant_alone() -> None:
    statement = msgspec.structs.replace(REGISTRY[18], outcomes={"6.1": "a", "since 6.12": "b"})

    assert statement.outcome_on((6, 1)) == "6.1"
    assert statement.outcome_on((6, 2)) == ""


@pytest.mark.parametrize("profile", [p for p in PROFILES.values() if p.name != "next"], ids=str)
def test_every_statement_with_outcomes_has_one_on_each_release_it_runs_on(profile: object) -> None:
    release = profile.release  # type: ignore[attr-defined]
    unsaid = [
        found.number
        for found in STATEMENTS
        if found.outcomes and found.since <= release and not found.outcome_on(release)
    ]

    assert unsaid == []
