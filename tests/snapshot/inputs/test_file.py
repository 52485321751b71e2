"""Raw files as inputs: holes stay holes, and a file that changes is noticed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from helpers.world import World
from snapshot.dumps import kinds, page, runs, whole
from userfault.kernel.errors import SourceError, UsageError
from userfault.linux import libc
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.inputs.protocol import PAGE, Holds, Run

MIB = 1 << 20


def sparse(path: Path) -> bytes:
    """1 MiB of hole, two pages, a hole, some bytes at the end."""
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(page(1) + page(2))
        file.seek(3 * MIB)
        file.write(b"the end")
    return path.read_bytes()


def test_holes_of_a_file_are_holes_and_its_bytes_are_its_bytes(tmp_path: Path) -> None:
    content = sparse(tmp_path / "image")
    with contextlib.closing(FileInput(tmp_path / "image")) as pages:
        assert pages.length == len(content)
        assert whole(pages) == content
        assert kinds(pages)[Holds.DATA] < 16
        assert kinds(pages)[Holds.HOLE] > 700
        assert pages.finish() == {"file": "image"}


def test_a_file_without_holes_is_one_run(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * (5 * PAGE + 1))
    with contextlib.closing(FileInput(tmp_path / "image")) as pages:
        assert runs(pages) == [Run(0, 6, Holds.DATA)]
        assert bytes(pages.read(5, 1)) == b"x" + bytes(PAGE - 1)


@pytest.mark.parametrize("size", [0, 5 * PAGE])
def test_a_file_of_nothing_but_a_hole(tmp_path: Path, size: int) -> None:
    with (tmp_path / "image").open("wb") as file:
        file.truncate(size)
    with contextlib.closing(FileInput(tmp_path / "image")) as pages:
        assert kinds(pages)[Holds.HOLE] == size // PAGE
        assert whole(pages) == bytes(size)


def test_holes_of_an_image_of_changes_are_the_base(tmp_path: Path) -> None:
    sparse(tmp_path / "image")
    with contextlib.closing(FileInput(tmp_path / "image", holes=Holds.BASE)) as pages:
        assert kinds(pages)[Holds.BASE] > 700
        assert kinds(pages)[Holds.HOLE] == 0


def test_a_memfd_is_packed_by_its_path() -> None:
    fd = os.memfd_create("guest")
    try:
        os.ftruncate(fd, 100 * PAGE)
        os.pwrite(fd, page(9), 50 * PAGE)
        with contextlib.closing(FileInput(f"/proc/self/fd/{fd}")) as pages:
            assert runs(pages)[1] == Run(50, 1, Holds.DATA)
            assert whole(pages)[50 * PAGE : 51 * PAGE] == page(9)
    finally:
        os.close(fd)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * PAGE)
    with contextlib.closing(FileInput(path)) as pages:
        pages.read(0, 1)
        os.utime(path, (1, 1))
        with pytest.raises(SourceError, match="changed while it was packed"):
            pages.finish()


def test_a_file_that_gets_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * 4 * PAGE)
    with contextlib.closing(FileInput(path)) as pages:
        os.truncate(path, PAGE)
        with pytest.raises(SourceError, match="ends before the length"):
            pages.read(0, 4)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    with pytest.raises(UsageError, match=f"it is a .*{kind}"):
        FileInput(path)


def test_a_refused_file_leaves_no_descriptor(tmp_path: Path, leaks_nothing: None) -> None:
    del leaks_nothing
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError):
        FileInput(tmp_path / "pipe")


def test_memory_of_huge_pages_is_packed_and_gains_none(world: World) -> None:
    """As of QEMU with memory-backend-file on hugetlbfs, which knows no holes."""
    size = 2 << 20
    guest = world.map("hugetlb", 4)
    libc.write_memory(guest.address + size, page(5))
    assert guest.backing is not None
    fd = guest.backing.fileno()
    before = os.fstat(fd).st_blocks
    with contextlib.closing(FileInput(f"/proc/self/fd/{fd}")) as pages:
        assert runs(pages) == [Run(0, 4 * size // PAGE, Holds.DATA)]
        everything = whole(pages)
    assert everything[size : size + PAGE] == page(5)
    assert everything.count(0) > 4 * size - 2 * PAGE
    assert os.fstat(fd).st_blocks == before
