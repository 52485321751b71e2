"""Mistakes in sharing that are planted are found by the scenarios of sharing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import search
from userfault.check.explore.strategies.chance import Random
from userfault.model.profiles import profile_named
from userfault.pager.core import ledger
from userfault.pager.core.actions import POISON
from userfault.pager.core.plan import Plan
from userfault.pager.core.states import POISONED, PRESENT
from userfault.pager.drivers.shared.copy import MARK, SharedCopy

_MOST = 2_000

Plant = Callable[[pytest.MonkeyPatch], None]


def _zeros_are_present(patch: pytest.MonkeyPatch) -> None:
    """Zeros in place of a dropped page make it PRESENT, as in other memory."""

    def becomes(kind: int, plan: Plan, state: int) -> int:
        del plan, state
        return POISONED if kind == POISON else PRESENT

    patch.setattr(ledger, "_becomes", becomes)


def _whatever_is_there_counts(patch: pytest.MonkeyPatch) -> None:
    """EEXIST is taken for somebody else's fill, without a look."""

    def refused(
        self: SharedCopy, code: int, page: int, count: int, source: int
    ) -> tuple[int, bool]:
        del code, count, source
        self._mark(page, 1)
        return 1, True

    patch.setattr(SharedCopy, "_refused", refused)


def _mark_before_page(patch: pytest.MonkeyPatch) -> None:
    """The mark is set before the page is there."""
    publish = SharedCopy.publish

    def early(self: SharedCopy, page: int, count: int, source: int) -> tuple[int, bool]:
        self._marks[page : page + count] = MARK * count
        return publish(self, page, count, source)

    patch.setattr(SharedCopy, "publish", early)


@pytest.mark.parametrize(
    ("name", "plant", "said"),
    [
        ("shared-fault-against-drop", _zeros_are_present, "dropper got b'source 0'"),
        ("shared-page-against-a-stranger", _whatever_is_there_counts, "reader got b'"),
        ("shared-page-against-the-end-of-the-keeper", _mark_before_page, "and a mark for it"),
    ],
    ids=["zeros are present", "whatever is there counts", "mark before page"],
)
def test_a_planted_mistake_is_found(
    name: str, plant: Plant, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    chosen = next(one for one in SCENARIOS if one.name == name)
    runner = Runner(chosen, profile_named(chosen.kernel), invariants=INVARIANTS)
    found = search(runner, Random(1, _MOST)).violation
    assert found is not None
    assert said in str(found)
