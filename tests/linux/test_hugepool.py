"""The hugetlb pools: never grown unasked, always put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import absent, need_root
from helpers.world import PoolLock
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import MIB, memory
from userfault.linux import hugepool, libc
from userfault.linux import memory as making
from userfault.linux.hugepool import PoolShare, read_pool
from userfault.linux.process import LiveProcess

HUGE = 2 * MIB


@pytest.fixture(autouse=True)
def pools(leaks_nothing: None) -> Iterator[PoolLock]:  # noqa: ARG001
    """The pools for this test alone; it checks that they are as before."""
    need_root()
    with PoolLock() as lock:
        if read_pool(HUGE).available:
            absent("the 2 MiB pool has free pages already, so it is not short")
        yield lock


def test_a_count_of_promises_that_has_passed_zero_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugepool, "_ROOT", str(tmp_path))
    folder = tmp_path / "hugepages-2048kB"
    folder.mkdir()
    for what, told in (("nr", 4), ("free", 3), ("resv", 2**64 - 1), ("surplus", 0)):
        (folder / f"{what}_hugepages").write_text(f"{told}\n")

    assert read_pool(HUGE).available == 3


@pytest.mark.parametrize("name", ["hugetlb", "hugetlb-private"])
def test_a_short_pool_is_not_grown_unasked_and_the_error_names_the_cure(name: str) -> None:
    before = read_pool(HUGE)

    with pytest.raises(MemoryUnavailable) as caught:
        LiveProcess().map(memory(name), 3 * HUGE)

    assert "3 hugetlb pages of 2 MiB are not available" in str(caught.value)
    assert f"the pool has {before.total} pages" in caught.value.cause
    assert "grow_pool=True" in caught.value.cure
    assert "nr_hugepages by 3" in caught.value.cure
    assert read_pool(HUGE) == before


@pytest.mark.parametrize("name", ["hugetlb", "hugetlb-private"])
def test_a_grown_pool_is_put_back_when_the_mapping_is_closed(name: str) -> None:
    before = read_pool(HUGE)
    mapping = LiveProcess().map(memory(name), 3 * HUGE, grow_pool=True)

    grown = read_pool(HUGE)
    libc.write_memory(mapping.address, b"mine")
    mapping.close()
    mapping.close()  # twice is no error

    assert grown.total == before.total + 3
    assert read_pool(HUGE) == before


def test_only_what_is_missing_is_added() -> None:
    before = read_pool(HUGE)
    first = PoolShare(HUGE, 2, grow=True)
    second = PoolShare(HUGE, 3, grow=True)

    assert (first.added, second.added) == (2, 1)
    first.close()
    second.close()
    assert read_pool(HUGE) == before


def test_a_failure_after_growing_gives_the_pages_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_pool(HUGE)

    def fails(*_: object) -> object:
        raise OSError(24, "no descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(making, "_memfd", fails)
        with pytest.raises(MemoryUnavailable, match="ulimit -n"):
            LiveProcess().map(memory("hugetlb"), HUGE, grow_pool=True)
    assert read_pool(HUGE) == before
    with monkeypatch.context() as patch:
        patch.setattr(libc, "mmap", fails)
        with pytest.raises(MemoryUnavailable):
            LiveProcess().map(memory("hugetlb-private"), HUGE, grow_pool=True)
    assert read_pool(HUGE) == before


def test_more_than_the_machine_has_is_refused_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine gives one page of three, as a fragmented one does."""
    before, real = read_pool(HUGE), hugepool._write
    monkeypatch.setattr(
        hugepool, "_write", lambda file, total: real(file, min(total, before.total + 1))
    )

    with pytest.raises(MemoryUnavailable, match="too fragmented or too full") as caught:
        PoolShare(HUGE, 3, grow=True)

    assert "3 hugetlb pages of 2 MiB" in str(caught.value)
    assert read_pool(HUGE) == before


def test_two_programs_that_grow_at_once_both_get_their_pages_and_leave_none() -> None:
    before = read_pool(HUGE)
    programs = [child.start("linux.children:grow_and_shrink", 100, 2) for _ in range(2)]

    assert [child.finish(program) for program in programs] == [HUGE, HUGE]

    assert read_pool(HUGE) == before


def test_pages_that_another_took_do_not_count_twice_when_it_leaves() -> None:
    """The one that grew the pool leaves first: its pages become surplus of the other."""
    before = read_pool(HUGE)
    process = LiveProcess()
    share = PoolShare(HUGE, 2, grow=True)
    other = process.map(memory("hugetlb-private"), 2 * HUGE)
    share.close()

    assert (read_pool(HUGE).total, read_pool(HUGE).persistent) == (2 + before.total, before.total)
    third = PoolShare(HUGE, 1, grow=True)
    other.close()
    third.close()

    assert read_pool(HUGE) == before


def test_a_user_without_rights_hears_that_growing_needs_root() -> None:
    said = child.run("linux.children:grow_a_pool_as_nobody")

    assert "growing the pool needs root" in said


def test_a_page_size_that_the_kernel_does_not_have_is_named() -> None:
    with pytest.raises(MemoryUnavailable, match="no hugetlb pages of 4 MiB"):
        read_pool(4 * MIB)


def test_the_pool_directory_is_where_the_kernel_has_it() -> None:
    assert hugepool._path(HUGE, "nr") == "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
