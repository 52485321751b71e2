"""CRIU's dumps as inputs: parents, shared memory, and what is damaged or incomplete."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshot.dumps import (
    FILE,
    GUARD,
    LAZY,
    PARENT,
    PRESENT,
    PRIVATE_MEMFD,
    SHARED_MEMFD,
    Dump,
    area,
    kinds,
    message,
    page,
    whole,
    write_image,
)
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.criu import CriuInput, the_task
from userfault.snapshot.inputs.opening import open_image_file
from userfault.snapshot.inputs.protocol import PAGE, Holds

A, B, C = 0x10000, 0x7F0000000000, 0x7F1000000000


def simple(folder: Path) -> Dump:
    """Two areas; of the first pages 1 and 2 are there, of the second page 0."""
    dump = Dump(folder)
    dump.memory(7, area(A, A + 4 * PAGE), area(B, B + 2 * PAGE))
    dump.pages("7", 1, (A + PAGE, page(1) + page(2), PRESENT | LAZY), (B, page(3), PRESENT))
    return dump


def test_areas_are_regions_and_absent_pages_are_holes(tmp_path: Path) -> None:
    simple(tmp_path)
    with contextlib.closing(open_image_file(str(tmp_path))) as pages:
        assert pages.kind == "criu"
        assert [(region.start, region.length, region.offset) for region in pages.regions] == [
            (A, 4 * PAGE, 0),
            (B, 2 * PAGE, 4 * PAGE),
        ]
        zeros = bytes(PAGE)
        assert whole(pages) == zeros + page(1) + page(2) + zeros + page(3) + zeros
        assert kinds(pages)[Holds.HOLE] == 3
        about = pages.finish()
        assert about["pid"] == "7"
        assert struct.unpack("<4Q", bytes.fromhex(about["auxv"])) == (6, PAGE, 0, 0)


def test_reading_across_runs_gives_zeros_between(tmp_path: Path) -> None:
    simple(tmp_path)
    with contextlib.closing(CriuInput(str(tmp_path), 7)) as pages:
        everything = whole(pages)
        for first in range(6):
            for count in range(1, 7 - first):
                part = everything[first * PAGE : (first + count) * PAGE]
                assert bytes(pages.read(first, count)) == part


def test_pages_of_a_parent_are_found_through_two_dumps(tmp_path: Path) -> None:
    first, second, third = (Dump(tmp_path / name) for name in ("one", "two", "three"))
    for dump in (first, second, third):
        dump.memory(7, area(A, A + 6 * PAGE))
    first.pages("7", 1, (A, b"".join(page(n) for n in range(6)), PRESENT))
    second.pages(
        "7", 1, (A, 2, PARENT), (A + 2 * PAGE, page(12), PRESENT), (A + 3 * PAGE, 3, PARENT)
    )
    second.parent(first.folder)
    third.pages("7", 1, (A, page(20), PRESENT), (A + PAGE, 4, PARENT))
    third.parent(second.folder)
    with contextlib.closing(CriuInput(str(third.folder), 7)) as pages:
        assert whole(pages) == page(20) + page(1) + page(12) + page(3) + page(4) + bytes(PAGE)


def test_old_dumps_say_in_parent_without_flags(tmp_path: Path) -> None:
    old, new = Dump(tmp_path / "old"), Dump(tmp_path / "new")
    for dump in (old, new):
        dump.memory(7, area(A, A + 2 * PAGE))
    old.pages("7", 1, (A, page(1) + page(2), PRESENT))
    entries = [message((1, 1)), message((1, A), (2, 1), (3, 1)), message((1, A + PAGE), (2, 1))]
    write_image(new.folder, "pagemap-7", entries)
    (new.folder / "pages-1.img").write_bytes(page(5))
    new.parent(old.folder)
    with contextlib.closing(CriuInput(str(new.folder), 7)) as pages:
        assert whole(pages) == page(1) + page(5)


def memfd(dump: Dump) -> None:
    """A memfd (file 3, inode 1), whose pages are those of `shmem-55`."""
    write_image(dump.folder, "memfd", [message((1, b"heap"), (4, 4 * PAGE), (5, 55), (7, 1))])
    inner = message((1, 3), (2, 2), (3, 0), (5, 1))
    regular = message((1, 4), (6, b"/usr/lib/libc.so"))
    write_image(
        dump.folder, "files", [message((1, 18), (2, 3), (20, inner)), message((1, 1), (3, regular))]
    )
    dump.pages("shmem-55", 2, (0, page(30) + page(31), PRESENT), (3 * PAGE, page(33), PRESENT))


def test_shared_memory_comes_from_its_own_page_map(tmp_path: Path) -> None:
    dump = Dump(tmp_path)
    memfd(dump)
    dump.memory(7, area(A, A + 3 * PAGE, SHARED_MEMFD, offset=PAGE, file=3))
    dump.pages("7", 1)
    with contextlib.closing(CriuInput(str(tmp_path), 7)) as pages:
        assert whole(pages) == page(31) + bytes(PAGE) + page(33)
        assert pages.regions[0].name == "/memfd:heap"
        assert pages.regions[0].shared


def test_a_private_mapping_of_a_memfd_has_its_own_pages_over_the_shared_ones(
    tmp_path: Path,
) -> None:
    dump = Dump(tmp_path)
    memfd(dump)
    dump.memory(7, area(A, A + 4 * PAGE, PRIVATE_MEMFD, file=3))
    dump.pages("7", 1, (A + PAGE, page(41) + page(42), PRESENT))
    with contextlib.closing(CriuInput(str(tmp_path), 7)) as pages:
        assert whole(pages) == page(30) + page(41) + page(42) + page(33)


def test_areas_of_files_have_their_names_and_what_is_no_memory_is_left_out(tmp_path: Path) -> None:
    dump = Dump(tmp_path)
    memfd(dump)
    dump.memory(
        7,
        area(A, A + PAGE, FILE, offset=2 * PAGE, file=4),
        area(A, A + PAGE, GUARD),  # lies over a real area
    )
    dump.pages("7", 1)
    with contextlib.closing(CriuInput(str(tmp_path), 7)) as pages:
        assert [region.name for region in pages.regions] == ["/usr/lib/libc.so"]
        assert pages.regions[0].file_offset == 2 * PAGE


def test_one_task_is_chosen_and_several_must_be_named(tmp_path: Path) -> None:
    dump = Dump(tmp_path, (7, 8, 9))
    for pid in (7, 8):  # 9 is a zombie: it has no memory
        dump.memory(pid, area(A, A + PAGE))
        dump.pages(str(pid), pid, (A, page(pid), PRESENT))
    assert the_task(str(tmp_path), 8) == 8
    with pytest.raises(UsageError, match="has 2 tasks: 7, 8"):
        the_task(str(tmp_path), None)
    with pytest.raises(UsageError, match="no memory of task 9"):
        the_task(str(tmp_path), 9)
    with contextlib.closing(open_image_file(str(tmp_path), task=8)) as pages:
        assert whole(pages) == page(8)


def _cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def _no(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _entries(*entries: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_image(folder, "pagemap-7", [message((1, 1)), *entries])

    return write


def _areas(*areas: bytes) -> Callable[[Path], None]:
    return lambda folder: Dump(folder).memory(7, *areas)


def _entry(address: int, pages: int, flags: int = PRESENT) -> bytes:
    return message((1, address), (4, flags), (5, pages))


def _compressed(how: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write_image(folder, "inventory", [message((1, 3), (2, 1), (15, how))])

    return damage


def test_a_newer_inventory_alone_is_no_reason_to_refuse(tmp_path: Path) -> None:
    dump = simple(tmp_path)
    _compressed(0)(tmp_path)
    CriuInput(str(dump.folder), 7).close()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_no("pages-1.img"), "lacks pages-1.img"),
        (_no("pagemap-7.img"), "lacks pagemap-7.img"),
        (_no("pstree.img"), "holds no CRIU dump"),
        (_cut("pages-1.img", 2 * PAGE), "is too short"),
        (_cut("pagemap-7.img", 20), "ends within a record"),
        (_cut("mm-7.img", 5), "does not begin with the numbers"),
        (_entries(_entry(A + PAGE, 1), _entry(A + PAGE, 1)), "overlaps another"),
        (_entries(_entry(A + 1, 1)), "overlaps another, or is empty"),
        (_entries(_entry(A, 0)), "or is empty"),
        (_entries(_entry(A, 1 << 60)), "or is empty"),
        (_entries(_entry(A, 1, PARENT)), "pages in its parent that are not there"),
        (_entries(_entry(A, 1, LAZY)), "lacks the pages at 0x10000"),
        (_entries(message((1, A), (4, PRESENT), (5, 1), (6, 1))), "newer than this release"),
        (_entries(_entry(A, 1, PRESENT | 16)), "newer than this release"),
        (_entries(_entry(A, 1, PRESENT | PARENT)), "has flags 0x5"),
        (_entries(_entry(A, 1, LAZY | 8)), "has flags 0xa"),
        (_compressed(1), "compressed page by page"),
        (_compressed(2), "compressed in blocks"),
        (_compressed(3), "in a way 3 that nobody knows"),
        (_entries(message((4, PRESENT))), "lacks its field"),
        (_entries(b"\x0b"), "a protobuf message is damaged"),
        (_entries(b"\x0a\x7f"), "a protobuf message is damaged"),
        (_entries(b"\x08" + b"\xff" * 12), "a number of over 10 bytes"),
        (_areas(area(A, A)), "overlaps another, or ends too early"),
        (_areas(area(A, A + 2 * PAGE), area(A + PAGE, A + 3 * PAGE)), "overlaps another"),
        (_areas(area(A, A + 1)), "not whole pages"),
        (_areas(area(A, 1 << 60)), "overlaps another, or ends too early"),
        (_areas(area(A, A + PAGE, SHARED_MEMFD, file=3)), "does not tell the pages of the memfd"),
    ],
)
def test_a_damaged_dump_is_a_clear_error(
    tmp_path: Path, leaks_nothing: None, damage: Callable[[Path], None], complaint: str
) -> None:
    del leaks_nothing
    simple(tmp_path)
    damage(tmp_path)
    with pytest.raises(FormatError, match=complaint):
        CriuInput(str(tmp_path), the_task(str(tmp_path), None)).close()


def test_parents_that_lead_back_are_an_error(tmp_path: Path) -> None:
    dump = simple(tmp_path / "one")
    dump.parent(tmp_path / "one")
    with pytest.raises(FormatError, match="lead back to it"):
        CriuInput(str(dump.folder), 7)


def test_a_dump_with_other_pages_is_refused(tmp_path: Path) -> None:
    dump = simple(tmp_path)
    dump.memory(7, area(A, A + 4 * PAGE), page_size=65536)
    with pytest.raises(FormatError, match="has pages of 65536 bytes"):
        CriuInput(str(tmp_path), 7)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    file=st.sampled_from(["pstree", "mm-7", "pagemap-7", "pagemap-shmem-55", "files", "memfd"]),
    at=st.integers(8, 300),
    change=st.one_of(st.binary(min_size=1, max_size=12), st.none()),
)
def test_whatever_the_files_hold_it_is_an_image_or_a_clear_error(
    tmp_path: Path, file: str, at: int, change: bytes | None
) -> None:
    """Bytes of a sound dump are replaced, or cut off."""
    folder = tmp_path / f"dump{len(os.listdir(tmp_path))}"
    dump = Dump(folder)
    memfd(dump)
    dump.memory(
        7, area(A, A + 4 * PAGE), area(B, B + 2 * PAGE), area(C, C + 2 * PAGE, SHARED_MEMFD, file=3)
    )
    dump.pages("7", 1, (A + PAGE, page(1) + page(2), PRESENT | LAZY), (B, page(3), PRESENT))
    path = folder / f"{file}.img"
    content = path.read_bytes()
    at = min(at, len(content))
    path.write_bytes(content[:at] + (change + content[at + len(change) :] if change else b""))
    try:
        pages = CriuInput(str(folder), the_task(str(folder), None))
    except (FormatError, UsageError):
        return
    with contextlib.closing(pages):
        assert pages.length % PAGE == 0
        read = 0
        for run in pages.runs():
            if run.holds is Holds.DATA and read < 100:
                read += len(pages.read(run.first, min(run.pages, 10))) // PAGE
        pages.finish()
