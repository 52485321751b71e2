"""UFFDIO_ZEROPAGE, UFFDIO_CONTINUE and UFFDIO_POISON, with pagemap as the witness."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from helpers.child import run
from helpers.pages import PAGE, pages
from helpers.world import World
from linux.calls import peek, read_into, write_from
from userfault.kernel.errors import KernelError, NotRegistered, PageExists, TryAgain
from userfault.kernel.modes import Mode
from userfault.kernel.protocol import State
from userfault.linux import libc
from userfault.uapi import mman

SMALL = ("anon", "shmem", "shmem-private")
MINOR = ("shmem", "shmem-private", "hugetlb")
ALL = (*SMALL, "hugetlb", "hugetlb-private")

# --- ZEROPAGE ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_zeropage_maps_zeros(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, 2)

    assert uffd.zeropage(mapping.address, 2 * PAGE) == 2 * PAGE

    assert all(entry.present for entry in world.pagemap.entries(mapping.address, 2))
    assert world.task().read(mapping.address, 2 * PAGE).result().data == bytes(2 * PAGE)


def test_zeropage_of_private_memory_allocates_nothing(world: World) -> None:
    mapping, uffd = world.registered("anon")

    uffd.zeropage(mapping.address, PAGE)

    entry = world.pagemap.entries(mapping.address, 1)[0]
    assert (entry.present, entry.exclusive) == (True, False)


def test_zeropage_of_shared_memory_allocates_a_page_of_the_file(world: World) -> None:
    mapping, uffd = world.registered("shmem")
    assert mapping.backing

    uffd.zeropage(mapping.address, PAGE)

    assert os.fstat(mapping.backing.fileno()).st_blocks * 512 == PAGE


def test_a_write_after_zeropage_raises_no_message(world: World) -> None:
    mapping, uffd = world.registered("anon")
    uffd.zeropage(mapping.address, PAGE)

    world.task().write(mapping.address, b"mine").result()

    assert list(uffd.read()) == []


@pytest.mark.parametrize("name", ["hugetlb", "hugetlb-private"])
def test_huge_pages_have_no_zeropage(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)

    with pytest.raises(KernelError, match="memory type does not have") as caught:
        uffd.zeropage(mapping.address, mapping.length)

    assert caught.value.errno == errno.EINVAL
    assert not mapping.memory.traits.zeropage


@pytest.mark.parametrize("name", SMALL)
def test_zeropage_over_a_present_page_is_refused_at_that_page(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, 2)
    uffd.zeropage(mapping.address + PAGE, PAGE)

    with pytest.raises(TryAgain) as half:
        uffd.zeropage(mapping.address, 2 * PAGE)
    assert half.value.resume == mapping.address + PAGE
    with pytest.raises(PageExists):
        uffd.zeropage(half.value.resume, PAGE)


# --- CONTINUE ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINOR)
def test_continue_maps_what_the_page_cache_has(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, mode=Mode.MINOR)
    assert mapping.backing
    mapping.backing.write(0, pages(7, 1))
    assert not world.pagemap.present(mapping.address)

    assert uffd.continue_(mapping.address, mapping.length) == mapping.length

    assert world.pagemap.present(mapping.address)
    assert world.task().read(mapping.address, PAGE).result().data == pages(7, 1)
    with pytest.raises(PageExists):
        uffd.continue_(mapping.address, mapping.length)


@pytest.mark.parametrize("name", MINOR)
def test_continue_without_a_cached_page_says_what_to_do(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, mode=Mode.MINOR)

    with pytest.raises(KernelError, match="page cache") as caught:
        uffd.continue_(mapping.address, mapping.length)

    assert caught.value.errno == errno.EFAULT
    assert "UFFDIO_COPY or through another mapping" in caught.value.cure


def test_continue_stops_at_the_first_page_that_is_not_cached(world: World) -> None:
    mapping, uffd = world.registered("shmem", 3, mode=Mode.MINOR)
    assert mapping.backing
    mapping.backing.write(0, pages(0, 2))

    with pytest.raises(TryAgain) as half:
        uffd.continue_(mapping.address, 3 * PAGE)

    assert half.value.resume == mapping.address + 2 * PAGE
    with pytest.raises(KernelError) as why:
        uffd.continue_(half.value.resume, PAGE)
    assert why.value.errno == errno.EFAULT


def test_continue_of_an_allocated_page_reads_zeros(world: World) -> None:
    mapping, uffd = world.registered("shmem", mode=Mode.MINOR)
    assert mapping.backing
    libc.fallocate(mapping.backing.fileno(), 0, 0, PAGE)

    uffd.continue_(mapping.address, PAGE)

    assert world.task().read(mapping.address, PAGE).result().data == bytes(PAGE)


def test_continue_on_a_private_mapping_leaves_later_writes_private(world: World) -> None:
    mapping, uffd = world.registered("shmem-private", mode=Mode.MINOR)
    assert mapping.backing
    mapping.backing.write(0, pages(3, 1))
    uffd.continue_(mapping.address, PAGE)

    world.task().write(mapping.address, b"mine").result()

    assert list(uffd.read()) == []
    assert mapping.backing.read(0, PAGE) == pages(3, 1)


def test_continue_on_anonymous_memory_is_einval(world: World) -> None:
    mapping, uffd = world.registered("anon")

    with pytest.raises(KernelError) as caught:
        uffd.continue_(mapping.address, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_continue_of_unregistered_memory_is_refused(world: World) -> None:
    mapping, uffd = world.map("shmem"), world.userfaultfd()

    with pytest.raises(NotRegistered):
        uffd.continue_(mapping.address, PAGE)


def test_continue_can_write_protect_what_it_maps(world: World) -> None:
    mapping, uffd = world.registered("shmem", mode=Mode.MINOR | Mode.WP)
    assert mapping.backing
    mapping.backing.write(0, pages(1, 1))

    uffd.continue_(mapping.address, PAGE, wp=True)

    assert world.pagemap.entries(mapping.address, 1)[0].uffd_wp


# --- POISON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_touching_poison_raises_sigbus(world: World, name: str) -> None:
    world.lock_pools()

    assert run("linux.children:touch_poison", name) == signal.SIGBUS


def test_fork_copies_poison_of_private_memory_only() -> None:
    """The page tables of shared memory are not copied by fork: the child looks into the file."""
    run_it = "linux.children:touch_poison_of_the_parent"

    assert run(run_it, "anon") == {"signal": signal.SIGBUS, "exited": False}
    assert run(run_it, "shmem") == {"signal": 0, "exited": True}


@pytest.mark.parametrize("name", ALL)
def test_system_calls_on_poison_fail_with_efault(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)

    assert uffd.poison(mapping.address, mapping.length) == mapping.length

    task = world.task()
    for call in (
        lambda: read_into(mapping.address, b"data"),
        lambda: write_from(mapping.address, 4),
        lambda: peek(os.getpid(), mapping.address, 4),
    ):
        pending = task.call(call)
        assert pending.result().errno == errno.EFAULT
    assert list(uffd.read()) == []


@pytest.mark.parametrize("name", SMALL)
def test_poison_is_a_marker_that_pagemap_shows_as_swapped(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)

    uffd.poison(mapping.address, PAGE)

    entry = world.pagemap.entries(mapping.address, 1)[0]
    assert (entry.present, entry.swap, entry.uffd_wp) == (False, True, False)


def test_poison_is_not_put_over_a_page(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    uffd.zeropage(mapping.address + PAGE, PAGE)

    with pytest.raises(TryAgain) as half:
        uffd.poison(mapping.address, 2 * PAGE)
    with pytest.raises(PageExists):
        uffd.poison(half.value.resume, PAGE)


def test_poison_is_of_one_mapping_alone(world: World) -> None:
    mapping, uffd = world.registered("shmem")
    assert mapping.backing
    alias = world.map("shmem", backing=mapping.backing)
    mapping.backing.write(0, pages(5, 1))

    uffd.poison(mapping.address, PAGE)

    assert world.task().read(alias.address, PAGE).result().data == pages(5, 1)


@pytest.mark.parametrize("name", ALL)
def test_a_copy_heals_poison(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)
    uffd.poison(mapping.address, mapping.length)
    data = pages(6, mapping.length // PAGE)

    uffd.copy(mapping.address, data, mapping.length)

    assert world.task().read(mapping.address, mapping.length).result().data == data


def test_dropping_the_page_heals_poison(world: World) -> None:
    mapping, uffd = world.registered("anon")
    uffd.poison(mapping.address, PAGE)

    libc.madvise(mapping.address, PAGE, mman.MADV_DONTNEED)
    touch = world.task().read(mapping.address, PAGE)
    world.settle()

    assert touch.state is State.BLOCKED
    assert len(uffd.read()) == 1
    uffd.zeropage(mapping.address, PAGE)
    assert touch.result().data == bytes(PAGE)
