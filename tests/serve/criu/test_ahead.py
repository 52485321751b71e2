"""What a restore will ask for is found out, and mapped, before it asks; and let go of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapshot.dumps import LAZY, PRESENT, Dump, area, page
from userfault.kernel.memtypes import MIB
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.mappings.residencies import borrow
from userfault.serve import criu_ahead
from userfault.serve.criu_ahead import Ahead
from userfault.serve.images import Images
from userfault.serve.peers import RefusedError
from userfault.serve.records import Daemon, Door
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.protocol import PAGE
from userfault.source.file import FileSource
from userfault.source.spec import FileSpec

PID, AT, PAGES = 7, 0x600000000000, 2 * MIB // PAGE
NO_IMAGES = Images(Daemon(), [])


@pytest.fixture
def door(tmp_path: Path) -> Door:
    folder = tmp_path / "images"
    folder.mkdir()
    made = Dump(folder, [PID])
    made.memory(PID, area(AT, AT + PAGES * PAGE))
    made.pages(str(PID), 1, (AT, b"".join(map(page, range(PAGES))), LAZY | PRESENT))
    return Door("criu", "criu", "", -1, dump=str(folder))


def busy() -> bool:
    return True


def idle() -> bool:
    return False


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped_pages(address: int) -> int:
    """Of the mapping that begins there."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            rss = next(each for each in lines if each.startswith("Rss:"))
            return int(rss.split()[1]) * 1024 // PAGE
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_nothing_is_read_when_it_is_asked_for(door: Door) -> None:
    ahead = Ahead(idle)
    ahead.look(door, NO_IMAGES)
    shutil.rmtree(door.dump)
    memory = ahead.taken(PID, door, NO_IMAGES)
    ahead.close()
    assert memory is not None
    assert memory.segments == (Segment(AT, AT + PAGES * PAGE, 0),)
    assert os.pread(memory.fd, PAGE, 3 * PAGE) == page(3)
    os.close(memory.fd)


@pytest.mark.parametrize(("pressing", "pages"), [(idle, PAGES), (busy, 0)])
def test_its_pages_are_mapped_as_long_as_nobody_waits(
    door: Door, pressing: Callable[[], bool], pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_ahead, "_LASTS_S", 60.0)
    assert mapped_of(Ahead(pressing), door) == pages


def test_what_was_left_is_mapped_once_a_task_is_served_and_nobody_waits(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_ahead, "_LASTS_S", 60.0)
    waits = [True]
    assert mapped_of(Ahead(lambda: bool(waits)), door, then=waits.clear) == PAGES


def mapped_of(ahead: Ahead, door: Door, *, then: Callable[[], None] | None = None) -> int:
    """How many pages are, of the task that is served; `then` nobody waits any more."""
    ahead.look(door, NO_IMAGES)
    memory = ahead.taken(PID, door, NO_IMAGES)
    assert memory is not None
    if then is not None:
        then()
        ahead.look(door, NO_IMAGES)
    assert isinstance(memory.spec, FileSpec)
    file = FileSource(memory.spec, memory.fd)
    shared = borrow(file, PAGE, idle)
    ahead.close()  # whoever is served from it has it still
    pages = mapped_pages(shared.residency.mapped(0, PAGE))
    shared.leave(idle)
    file.close()
    return pages


def test_what_nobody_asks_for_is_let_go_of(door: Door) -> None:
    before = descriptors()
    ahead = Ahead(idle)
    ahead.look(door, NO_IMAGES)
    assert descriptors() > before
    ahead.close()
    assert descriptors() == before


def test_whoever_asks_is_told_what_cannot_be_read(door: Door) -> None:
    damaged = Path(door.dump, f"mm-{PID}.img")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ahead = Ahead(idle)
    ahead.look(door, NO_IMAGES)
    with pytest.raises(FormatError, match="ends within a record"):
        ahead.taken(PID, door, NO_IMAGES)
    with pytest.raises(RefusedError, match="not in"):
        ahead.taken(PID + 1, door, NO_IMAGES)
    ahead.close()
