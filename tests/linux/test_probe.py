"""The probe: what this kernel answers for each memory, and why not."""

from __future__ import annotations

import os

import pytest

from helpers.world import World
from userfault.kernel.memtypes import GIB, Memory, MemoryType, memory
from userfault.kernel.modes import Mode
from userfault.linux.probe import Report, memories, probe, why_not


@pytest.fixture
def report(world: World) -> Report:
    """The report of this machine, with the pools grown for it."""
    world.lock_pools()
    return probe(grow_pool=os.geteuid() == 0)


def test_the_probe_tries_every_memory_in_every_mode(report: Report) -> None:
    asked = {(cell.memory, cell.page_size, cell.mode) for cell in report.cells}

    assert asked == {
        (made.name, made.page_size, mode)
        for made in memories()
        for mode in ("MISSING", "MINOR", "WP", "RWP")
    }
    assert report.kernel == os.uname().release
    assert report.general_ioctls[:2] == ["REGISTER", "UNREGISTER"]


def test_cells_work_or_say_why_not(report: Report) -> None:
    for cell in report.cells:
        assert cell.works is not bool(cell.reason), cell
    works = {(cell.memory, cell.mode): cell.works for cell in report.cells if cell.works}
    assert works["anon", "MISSING"]
    assert ("anon", "MINOR") not in works


def test_an_ungrown_pool_is_a_reason_and_not_an_error(world: World) -> None:
    world.lock_pools()

    cells = [cell for cell in probe().cells if cell.page_size == GIB]

    assert all(cell.works or "not available" in cell.reason for cell in cells)


def test_reasons_are_known_for_types_that_lack_a_mode() -> None:
    guest = Memory(MemoryType.GUEST_MEMFD, 4096, True)

    assert "no released kernel" in why_not(guest, Mode.MISSING)
    assert "no minor faults" in why_not(memory("anon"), Mode.MISSING | Mode.MINOR)
    assert why_not(memory("shmem"), Mode.MINOR) == ""
