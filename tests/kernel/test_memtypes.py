"""The table of memory types, and how a memory is named."""

from __future__ import annotations

import pytest

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import (
    GIB,
    MIB,
    TRAITS,
    Memory,
    MemoryType,
    memory,
    memory_names,
    round_up,
    size_name,
)


def test_every_type_has_a_row() -> None:
    assert set(TRAITS) == set(MemoryType)
    assert all(row.page_sizes and (row.shareable or row.private) for row in TRAITS.values())


@pytest.mark.parametrize("name", memory_names())
def test_every_name_makes_a_memory_of_that_name(name: str) -> None:
    made = memory(name)

    assert made.name == name
    assert made.page_size == TRAITS[made.type].page_sizes[0]
    assert memory(made) is made


def test_the_names_are_these() -> None:
    assert memory_names() == [
        "anon",
        "shmem",
        "shmem-private",
        "hugetlb",
        "hugetlb-private",
        "guest_memfd",
    ]


def test_a_page_size_can_be_chosen() -> None:
    assert str(memory("hugetlb", GIB)) == "hugetlb (1 GiB pages)"
    assert str(memory("hugetlb-private")) == "hugetlb-private (2 MiB pages)"


@pytest.mark.parametrize("name", ["hugetbl", "anon-shared", "shmem-", "", "guest-memfd"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="guest_memfd") as caught:
        memory(name)
    assert repr(name) in str(caught.value)


def test_a_page_size_that_the_type_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(UsageError, match="its page sizes are 2 MiB, 1 GiB"):
        memory("hugetlb", 4096)


@pytest.mark.parametrize(("kind", "shared"), [("anon", True), ("guest_memfd", False)])
def test_a_mapping_that_does_not_exist_is_refused(kind: str, shared: bool) -> None:
    with pytest.raises(UsageError, match="cannot be mapped"):
        Memory(MemoryType(kind), 4096, shared)


def test_private_guest_memfd_is_no_name() -> None:
    with pytest.raises(UsageError):
        memory("guest_memfd-private")


@pytest.mark.parametrize(
    ("size", "name"),
    [(4096, "4 KiB"), (2 * MIB, "2 MiB"), (GIB, "1 GiB"), (0, "0 B"), (100, "100 B")],
)
def test_sizes_are_told_in_the_largest_unit_that_fits(size: int, name: str) -> None:
    assert size_name(size) == name


def test_minor_faults_need_a_page_cache() -> None:
    assert [memory(name).minor_faults for name in memory_names()] == [False] + [True] * 5


def test_rounding_up() -> None:
    assert [round_up(value, 4096) for value in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
