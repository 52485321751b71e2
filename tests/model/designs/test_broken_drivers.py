"""What a driver's mistake does under each design: the page tells what the explorer finds now."""

from __future__ import annotations

from collections import Counter

import pytest

from model.designs.misbehaviours import LOOKUP, MISBEHAVIOURS, Misbehaviour
from model.designs.report import PAGE, sections, verdicts, written
from model.designs.upstream import COUNTERPARTS, NOT_USERFAULTFD, OF_THE_MODEL
from model.designs.verdicts import BREAKS, CANNOT, CAUGHT, CONTAINED, RACES, explored, scenario
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import MemoryOps, UffdOps

# As shmem looks up, by a driver's own name: no mistake at all.
NONE = Misbehaviour("it makes no mistake", LOOKUP, pagecache.lookup)
# What no table can see: a page that is forgotten, and globals that lead around it.
UNSEEN = {"leaks", "meddles", "changes_the_mapping"}
OPERATIONS = {name for name, found in MISBEHAVIOURS.items() if found.slot == "the whole operation"}


@pytest.mark.parametrize(
    "design", ["uffd_copy", "get_folio_only", "per_operation", "merged", "ours"]
)
@pytest.mark.parametrize("race", RACES)
def test_a_driver_without_a_mistake_breaks_nothing(design: str, race: str) -> None:
    built = scenario(NONE, design, race)
    assert built is not None

    seen = explored(built)

    assert seen.violation is None
    assert seen.exhausted


def test_the_page_is_what_the_explorer_finds() -> None:
    text = PAGE.read_text()
    assert written(text, sections()) == text, "PYTHONPATH=tests python -m model.designs.report"


def test_what_each_design_lets_happen() -> None:
    found = verdicts()
    kinds = {
        design: Counter(each.kind for (of, _), each in found.items() if of == design)
        for design in {design for design, _ in found}
    }

    assert len(MISBEHAVIOURS) >= 20
    assert kinds["closed_choice"][BREAKS] == 0
    assert {name for (of, name), each in found.items() if of == "ours" and each.kind == BREAKS} == (
        UNSEEN
    )
    assert kinds["ours"][CONTAINED] == 0
    assert all(found["merged", name].kind == CANNOT for name in OPERATIONS)
    assert kinds["uffd_copy"][BREAKS] > kinds["merged"][BREAKS] > kinds["get_folio_only"][BREAKS]
    assert all(counted[CAUGHT] == 0 for design, counted in kinds.items() if design != "ours")


def test_userfaultfds_table_is_upstreams() -> None:
    assert list(UffdOps.__struct_fields__) == list(COUNTERPARTS)


def test_every_other_member_has_its_place_in_the_kernel() -> None:
    told = {*NOT_USERFAULTFD, *OF_THE_MODEL}
    assert told == set(MemoryOps.__struct_fields__)
