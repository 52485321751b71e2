"""pagemap and PAGEMAP_SCAN: the witness, and write tracking without messages (WP_ASYNC)."""

from __future__ import annotations

import errno
import fcntl
import os
from types import SimpleNamespace

import pytest

from helpers.pages import PAGE, pages
from helpers.skips import need_features
from helpers.world import World
from userfault.kernel.errors import KernelError
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux import written as scanning
from userfault.linux.pagemap import Pagemap, Region
from userfault.linux.process import LiveMapping
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman
from userfault.uapi.pagemap import PAGE_IS_PRESENT, PAGE_IS_WPALLOWED, PAGE_IS_WRITTEN

TRACKABLE = ("anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private", "guest_memfd")


def tracked(world: World, name: str, count: int) -> tuple[LiveMapping, LiveUserfaultfd]:
    """Memory that is present, whose writes are tracked, none since."""
    need_features(Feature.WP_ASYNC)
    mapping = world.map(name, count)
    for at in range(count):
        libc.write_memory(mapping.address + at * mapping.memory.page_size, b"there")
    uffd = world.userfaultfd(Feature.WP_ASYNC)
    uffd.register(mapping.address, mapping.length, Mode.WP)
    uffd.writeprotect(mapping.address, mapping.length, protect=True)
    return mapping, uffd


def written(world: World, mapping: LiveMapping, *, protect: bool = False) -> list[int]:
    """The numbers of the pages that were written since they were protected."""
    regions = world.pagemap.scan(
        mapping.address,
        mapping.address + mapping.length,
        all_of=PAGE_IS_WRITTEN,
        report=PAGE_IS_WRITTEN,
        protect=protect,
        check_wp_async=True,
    )
    size = mapping.memory.page_size
    return [
        (address - mapping.address) // size
        for region in regions
        for address in range(region.start, region.end, size)
    ]


@pytest.mark.parametrize("name", TRACKABLE)
def test_a_scan_lists_exactly_the_pages_that_were_written(world: World, name: str) -> None:
    mapping, uffd = tracked(world, name, 4)
    size = mapping.memory.page_size
    assert written(world, mapping) == []

    for at in (1, 3):
        libc.write_memory(mapping.address + at * size + 8, b"new")
    libc.read_memory(mapping.address, 8)

    assert written(world, mapping) == [1, 3]
    assert list(uffd.read()) == []  # the kernel served itself


@pytest.mark.parametrize("name", ["anon", "shmem", "hugetlb"])
def test_a_scan_can_protect_what_it_reports_in_the_same_step(world: World, name: str) -> None:
    mapping, _ = tracked(world, name, 3)
    libc.write_memory(mapping.address, b"new")

    assert written(world, mapping, protect=True) == [0]
    assert written(world, mapping) == []
    libc.write_memory(mapping.address, b"newer")
    assert written(world, mapping) == [0]


def test_dropping_a_page_counts_as_writing_it(world: World) -> None:
    mapping, _ = tracked(world, "anon", 2)

    libc.madvise(mapping.address, PAGE, mman.MADV_DONTNEED)

    assert written(world, mapping) == [0]


def test_memory_that_does_not_track_writes_is_refused_when_checked(world: World) -> None:
    need_features(Feature.WP_ASYNC)
    mapping = world.map("anon")

    with pytest.raises(KernelError, match=r"PAGEMAP_SCAN failed with EPERM on \[0x") as caught:
        written(world, mapping)
    assert caught.value.errno == errno.EPERM


def test_a_scan_goes_on_when_its_buffer_is_full(world: World) -> None:
    mapping = world.map("anon", 9)
    for at in range(0, 9, 2):
        libc.write_memory(mapping.address + at * PAGE, b"there")

    found = world.pagemap.scan(
        mapping.address,
        mapping.address + mapping.length,
        all_of=PAGE_IS_PRESENT,
        report=PAGE_IS_PRESENT,
        max_regions=2,
    )

    places = [mapping.address + at * PAGE for at in range(0, 9, 2)]
    assert found == [Region(place, place + PAGE, PAGE_IS_PRESENT) for place in places]


@pytest.mark.parametrize("most", [500, 512, 600, 1024, 4096])
def test_no_region_is_told_twice_however_many_there_are(world: World, most: int) -> None:
    """The kernel's own buffer holds 512: when it is emptied in between, walk_end stays there."""
    count = 1400
    mapping = world.map("anon", count)
    libc.madvise(mapping.address, mapping.length, mman.MADV_NOHUGEPAGE)
    places = [mapping.address + at * PAGE for at in range(0, count, 2)]
    for place in places:
        libc.write_memory(place, b"there")

    found = world.pagemap.scan(
        mapping.address,
        mapping.address + mapping.length,
        all_of=PAGE_IS_PRESENT,
        report=PAGE_IS_PRESENT,
        max_regions=most,
    )

    assert found == [Region(place, place + PAGE, PAGE_IS_PRESENT) for place in places]


def test_what_is_written_between_two_calls_of_one_scan_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1400
    mapping, _ = tracked(world, "anon", count)
    start, end = mapping.address, mapping.address + mapping.length
    for at in range(0, count, 2):
        libc.write_memory(start + at * PAGE, b"again")
    late = start + 1201 * PAGE
    calls = []

    def ioctl(fd: int, request: int, argument: bytearray) -> int:
        calls.append(request)
        answer: int = fcntl.ioctl(fd, request, argument)
        if len(calls) == 1:
            libc.write_memory(late, b"late")
        return answer

    monkeypatch.setattr(scanning, "fcntl", SimpleNamespace(ioctl=ioctl))
    found = scanning.written(world.pagemap, start, end, protect=True)
    found += scanning.written(world.pagemap, start, end, protect=True)

    assert any(first <= late < last for first, last in found)


def test_a_scan_can_ask_for_what_is_not(world: World) -> None:
    mapping = world.map("anon", 3)
    libc.write_memory(mapping.address + PAGE, b"there")

    found = world.pagemap.scan(
        mapping.address,
        mapping.address + mapping.length,
        inverted=PAGE_IS_PRESENT,
        report=PAGE_IS_PRESENT,
    )

    assert [(region.start - mapping.address) // PAGE for region in found] == [0, 2]


def test_write_tracking_shows_as_a_category(world: World) -> None:
    mapping, _ = tracked(world, "anon", 1)

    (region,) = world.pagemap.scan(
        mapping.address, mapping.address + PAGE, any_of=PAGE_IS_WPALLOWED, report=PAGE_IS_WPALLOWED
    )

    assert region.categories == PAGE_IS_WPALLOWED


def test_words_of_nothing_are_zeros(world: World) -> None:
    mapping = world.map("anon", 2)
    libc.munmap(mapping.address, 2 * PAGE)

    entries = world.pagemap.entries(mapping.address, 2)

    assert [entry.empty for entry in entries] == [True, True]


def test_pagemap_beyond_the_address_space_reads_as_empty(world: World) -> None:
    assert world.pagemap.words((1 << 47) - PAGE, 3) == (0, 0, 0)


def test_pages_of_a_file_are_told_from_anonymous_ones(world: World) -> None:
    shmem, anon = world.map("shmem"), world.map("anon")
    alias = world.map("shmem", backing=shmem.backing)
    libc.write_memory(shmem.address, pages(1, 1))
    libc.write_memory(anon.address, pages(1, 1))

    once = world.pagemap.entries(shmem.address, 1)[0]
    libc.read_memory(alias.address, 1)
    twice = world.pagemap.entries(shmem.address, 1)[0]
    private = world.pagemap.entries(anon.address, 1)[0]

    assert (once.file, once.exclusive) == (True, True)
    assert (twice.file, twice.exclusive) == (True, False)
    assert (private.file, private.exclusive) == (False, True)


def test_a_process_is_named_by_its_number(world: World) -> None:
    mapping = world.map("anon")
    libc.write_memory(mapping.address, b"there")

    with Pagemap(os.getpid()) as pagemap:
        assert pagemap.present(mapping.address)
        pagemap.close()  # twice is no error
