"""Each flaw of guest_memfd as posted is found by a race, and the corrected hooks are free of it."""

from __future__ import annotations

import pytest

from model.designs.flaws import FLAWS, explored
from model.designs.report import written
from model.designs.report_flaws import PAGE, sections
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.strategies.reduced import Reduced
from userfault.kernel.modes import Mode
from userfault.model.files import filesystem
from userfault.model.files.folio import SWAPPED
from userfault.model.profiles import NEXT, Config

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


@pytest.mark.parametrize("design", ["posted", "ours"])
def test_a_page_in_swap_comes_back_for_its_reader(design: str) -> None:
    def build(world: World) -> None:
        file = world.file("shmem")
        filesystem.write(world.machine.files, file, 0, b"page")
        world.swap_out(file)
        area = world.map("shmem", file=file)
        uffd = world.uffd(area, mode=Mode.MINOR)
        reader = world.task("reader", lambda me: me.read(area[0], 4))
        world.task("handler", lambda me: me.continue_(uffd, area[0]))
        world.check(lambda: None if reader.value == b"page" else "other bytes")
        world.check(lambda: "still in swap" if file.cache[0].flags & SWAPPED else None)

    race = Scenario("swap", "", build, config=Config(design=design))
    seen = search(Runner(race, NEXT, invariants=INVARIANTS), Reduced())
    assert seen.violation is None
    assert seen.exhausted


def test_the_page_is_what_the_explorer_finds() -> None:
    text = PAGE.read_text()
    assert written(text, sections()) == text, (
        "PYTHONPATH=tests python -m model.designs.report_flaws"
    )
