"""UFFDIO_WRITEPROTECT and UFFDIO_RWPROTECT: who is stopped, and what lifts it."""

from __future__ import annotations

import errno

import pytest

from helpers.pages import PAGE, pages
from helpers.world import REGISTRABLE, World
from userfault.kernel.errors import KernelError, NotRegistered
from userfault.kernel.events import PageFault
from userfault.kernel.modes import FaultFlag, Feature, Mode
from userfault.kernel.protocol import State
from userfault.linux import libc
from userfault.linux.uffd import offer
from userfault.uapi import mman

BOTH = Mode.MISSING | Mode.WP


@pytest.mark.parametrize("name", REGISTRABLE)
def test_a_write_to_a_protected_page_waits_until_protection_is_lifted(
    world: World, name: str
) -> None:
    mapping, uffd = world.registered(name, mode=BOTH)
    uffd.copy(mapping.address, bytes(mapping.length), mapping.length)
    uffd.writeprotect(mapping.address, mapping.length, protect=True)
    task = world.task()
    assert task.read(mapping.address, 8).result().data == bytes(8)  # reads go on

    write = task.write(mapping.address + 16, b"changed!")
    world.settle()

    assert write.state is State.BLOCKED
    assert [(fault.address, fault.flags) for fault in _faults(uffd.read())] == [
        (mapping.address, FaultFlag.WP | FaultFlag.WRITE)
    ]
    uffd.writeprotect(mapping.address, mapping.length, protect=False)
    write.result()
    assert task.read(mapping.address + 16, 8).result().data == b"changed!"


def _faults(events: object) -> list[PageFault]:
    assert isinstance(events, list)
    assert all(isinstance(event, PageFault) for event in events)
    return events


@pytest.mark.parametrize("name", REGISTRABLE)
def test_pagemap_shows_protection_come_and_go(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, mode=BOTH)
    uffd.copy(mapping.address, bytes(mapping.length), mapping.length)

    seen = []
    for protect in (True, False):
        uffd.writeprotect(mapping.address, mapping.length, protect=protect)
        seen.append(world.pagemap.entries(mapping.address, 1)[0].uffd_wp)

    assert seen == [True, False]


def test_lifting_without_waking_leaves_the_writer_asleep(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=BOTH)
    uffd.copy(mapping.address, pages(1, 1), PAGE, wp=True)
    write = world.task().write(mapping.address, b"x")
    world.settle()

    uffd.writeprotect(mapping.address, PAGE, protect=False, wake=False)

    assert write.state is State.BLOCKED
    uffd.wake(mapping.address, PAGE)
    write.result()


def test_protection_of_a_range_without_the_mode_is_refused(world: World) -> None:
    mapping, uffd = world.registered("anon")

    with pytest.raises(NotRegistered, match="no single mapping"):
        uffd.writeprotect(mapping.address, PAGE, protect=True)


def test_empty_pages_are_marked_where_the_memory_has_markers(world: World) -> None:
    anon, uffd = world.registered("anon", mode=BOTH)
    uffd.writeprotect(anon.address, PAGE, protect=True)
    assert world.pagemap.entries(anon.address, 1)[0].empty

    shmem, other = world.registered("shmem", mode=BOTH)
    other.writeprotect(shmem.address, PAGE, protect=True)
    entry = world.pagemap.entries(shmem.address, 1)[0]
    assert (entry.present, entry.uffd_wp, entry.empty) == (False, True, False)


def test_wp_unpopulated_marks_empty_anonymous_pages(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=BOTH, features=Feature.WP_UNPOPULATED)

    uffd.writeprotect(mapping.address, PAGE, protect=True)

    assert world.pagemap.entries(mapping.address, 1)[0].uffd_wp


def test_dropping_an_anonymous_page_drops_its_protection(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=BOTH)
    uffd.copy(mapping.address, pages(1, 1), PAGE, wp=True)

    libc.madvise(mapping.address, PAGE, mman.MADV_DONTNEED)

    assert world.pagemap.entries(mapping.address, 1)[0].empty


def test_dropping_a_page_of_a_file_keeps_its_protection(world: World) -> None:
    mapping, uffd = world.registered("shmem", mode=BOTH)
    uffd.copy(mapping.address, pages(1, 1), PAGE, wp=True)

    libc.madvise(mapping.address, PAGE, mman.MADV_DONTNEED)

    assert world.pagemap.entries(mapping.address, 1)[0].uffd_wp


def test_closing_the_userfaultfd_lifts_protection(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=BOTH)
    uffd.copy(mapping.address, pages(1, 1), PAGE, wp=True)

    uffd.close()

    assert not world.pagemap.entries(mapping.address, 1)[0].uffd_wp
    world.task().write(mapping.address, b"free").result()


def test_part_of_a_huge_page_is_not_protected(world: World) -> None:
    mapping, uffd = world.registered("hugetlb", mode=BOTH)

    with pytest.raises(KernelError) as caught:
        uffd.writeprotect(mapping.address, PAGE, protect=True)
    assert caught.value.errno == errno.EINVAL


def test_rwprotect_stops_reads_where_the_kernel_has_it_and_is_a_typed_error_elsewhere(
    world: World,
) -> None:
    mapping = world.map("anon")
    libc.write_memory(mapping.address, pages(1, 1))
    if Feature.RWP not in offer()[0]:
        uffd = world.userfaultfd()
        uffd.register(mapping.address, PAGE, Mode.MISSING)
        with pytest.raises(KernelError, match=r"UFFDIO_RWPROTECT failed with EINVAL on \[0x"):
            uffd.rwprotect(mapping.address, PAGE, protect=True)
        return
    uffd = world.userfaultfd(Feature.RWP)
    uffd.register(mapping.address, PAGE, Mode.RWP)
    uffd.rwprotect(mapping.address, PAGE, protect=True)
    read = world.task().read(mapping.address, PAGE)
    world.settle()
    assert [fault.flags for fault in _faults(uffd.read())] == [FaultFlag.RWP]
    uffd.rwprotect(mapping.address, PAGE, protect=False)
    assert read.result().data == pages(1, 1)
