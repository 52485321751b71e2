"""Which pages of a dump a lazy restore leaves to a pager, and where they are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from snapshot.dumps import LAZY, PARENT, PRESENT, Dump, area, page, whole
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.format.page_maps import PageMaps
from userfault.snapshot.inputs.criu_lazy import LazyTask
from userfault.snapshot.inputs.protocol import PAGE, Holds
from userfault.snapshot.packing.criu_tree import CriuTreeInput

A, B = 0x10000, 0x40000


def pages(*numbers: int) -> bytes:
    return b"".join(map(page, numbers))


def dumped(folder: Path) -> Dump:
    """One area, and another that begins where it ends; the second page of it all is CRIU's."""
    dump = Dump(folder, [7])
    dump.memory(7, area(A, A + 4 * PAGE), area(A + 4 * PAGE, A + 16 * PAGE), area(B, B + PAGE))
    dump.pages(
        "7",
        1,
        (A, pages(0), LAZY | PRESENT),
        (A + PAGE, pages(1), PRESENT),
        (A + 2 * PAGE, pages(2, 3, 4, 5), LAZY | PRESENT),
        (A + 10 * PAGE, pages(6), LAZY | PRESENT),
        (A + 11 * PAGE, pages(7), LAZY | PRESENT),
        (B, pages(8), LAZY | PRESENT),
    )
    return dump


def test_pages_follow_each_other_but_across_the_border_of_areas(tmp_path: Path) -> None:
    dumped(tmp_path)
    with LazyTask(str(tmp_path), 7) as task:
        found = [(run.address, run.pages, run.position) for run in task.runs]
        assert task.one_file >= 0
    assert found == [
        (A, 1, 0),
        (A + 2 * PAGE, 2, 2),
        (A + 4 * PAGE, 2, 4),
        (A + 10 * PAGE, 2, 6),
        (B, 1, 8),
    ]


def test_small_holes_are_taken_along_where_there_are_many(tmp_path: Path) -> None:
    dumped(tmp_path)
    with LazyTask(str(tmp_path), 7) as task:
        assert len(task.stretches()) == 5
        assert task.stretches(4) == [
            (A, A + 4 * PAGE),
            (A + 4 * PAGE, A + 6 * PAGE),
            (A + 10 * PAGE, A + 12 * PAGE),
            (B, B + PAGE),
        ]
        assert len(task.stretches(1)) == 3  # as many as there are areas


def test_a_tree_is_one_image(tmp_path: Path) -> None:
    dump = dumped(tmp_path)
    two = Dump(tmp_path / "two", [9])
    two.memory(9, area(A, A + PAGE))
    two.pages("9", 2, (A, pages(50), LAZY | PRESENT))
    for file in (tmp_path / "two").glob("*9.img"):
        file.rename(tmp_path / file.name)
    (tmp_path / "two/pages-2.img").rename(tmp_path / "pages-2.img")
    Dump(dump.folder, [7, 9])
    with closing(CriuTreeInput(str(tmp_path))) as tree:
        assert whole(tree) == pages(0, 2, 3, 4, 5, 6, 7, 8, 50)
        maps = PageMaps(tree.regions)
        assert maps.find("9", A) == (8 * PAGE, PAGE)
        assert maps.find("7", A + PAGE) is None
        assert tree.finish() == {"tasks": "7 9"}


def test_holes_of_a_tree_are_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumped(tmp_path)
    monkeypatch.setattr("userfault.snapshot.inputs.criu_lazy.MOST_REGIONS", 1)
    with closing(CriuTreeInput(str(tmp_path))) as tree:
        assert [run.pages for run in tree.runs() if run.holds is Holds.HOLE] == [1, 4]
        held = bytes(tree.read(0, tree.length // PAGE))
    expected = pages(0) + bytes(PAGE) + pages(2, 3, 4, 5) + bytes(4 * PAGE) + pages(6, 7, 8)
    assert held == expected


def test_pages_of_a_parent_are_in_several_files(tmp_path: Path) -> None:
    before = Dump(tmp_path / "before", [7])
    before.memory(7, area(A, A + 2 * PAGE))
    before.pages("7", 1, (A, pages(0, 1), LAZY | PRESENT))
    after = Dump(tmp_path / "after", [7])
    after.memory(7, area(A, A + 2 * PAGE))
    after.pages("7", 1, (A, 1, LAZY | PARENT), (A + PAGE, pages(9), LAZY | PRESENT))
    after.parent(before.folder)
    with LazyTask(str(after.folder), 7) as task:
        assert task.one_file == -1
    with closing(CriuTreeInput(str(after.folder))) as tree:
        assert whole(tree) == pages(0, 9)


def test_pages_that_are_still_in_the_process_are_missed(tmp_path: Path) -> None:
    dump = Dump(tmp_path, [7])
    dump.memory(7, area(A, A + PAGE))
    dump.pages("7", 1, (A, 1, LAZY))
    with pytest.raises(FormatError, match="lacks the pages"):
        LazyTask(str(tmp_path), 7)


def test_a_dump_with_nothing_lazy_is_no_tree(tmp_path: Path) -> None:
    dump = Dump(tmp_path, [7])
    dump.memory(7, area(A, A + PAGE))
    dump.pages("7", 1, (A, pages(0), PRESENT))
    with pytest.raises(UsageError, match="nothing that could be restored lazily"):
        CriuTreeInput(str(tmp_path))
