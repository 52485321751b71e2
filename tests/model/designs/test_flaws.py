"""Each flaw of guest_memfd as posted is found by a race, and the corrected hooks are free of it."""

from __future__ import annotations

import pytest

from model.designs.flaws import FLAWS, explored
from model.designs.report import written
from model.designs.report_flaws import PAGE, sections

NO_FLAW = [name for name, found in FLAWS.items() if found.letter == "e"]


@pytest.mark.parametrize("name", [name for name in FLAWS if name not in NO_FLAW])
def test_the_posted_hooks_have_the_flaw(name: str) -> None:
    assert explored(name, "posted").violation is not None


@pytest.mark.parametrize("name", NO_FLAW)
def test_the_invalidate_lock_is_no_flaw(name: str) -> None:
    seen = explored(name, "posted")

    assert seen.violation is None
    assert seen.exhausted


@pytest.mark.parametrize("design", ["ours", "merged"])
@pytest.mark.parametrize("name", FLAWS)
def test_the_corrected_hooks_are_free_of_it(name: str, design: str) -> None:
    """Also where nobody checks what they did: the hooks are mended, not caught."""
    seen = explored(name, design)

    assert seen.violation is None
    assert seen.exhausted


def test_the_page_is_what_the_explorer_finds() -> None:
    text = PAGE.read_text()
    assert written(text, sections()) == text, (
        "PYTHONPATH=tests python -m model.designs.report_flaws"
    )
