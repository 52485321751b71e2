"""UFFDIO_REGISTER and UFFDIO_UNREGISTER: what each memory accepts, and what refusals say."""

from __future__ import annotations

import errno
import os

import pytest

from helpers.pages import PAGE, pages
from helpers.skips import absent
from helpers.world import CACHED, REGISTRABLE, World
from userfault.kernel.errors import KernelError, NotRegistered, RegistrationRefused
from userfault.kernel.memtypes import MemoryType, memory
from userfault.kernel.modes import Feature, Ioctls, Mode
from userfault.kernel.protocol import State
from userfault.linux import libc
from userfault.linux.uffd import offer
from userfault.uapi import mman

BASIC = Ioctls.WAKE | Ioctls.COPY | Ioctls.POISON
SMALL = Ioctls.ZEROPAGE | Ioctls.MOVE


@pytest.fixture(autouse=True)
def _as_of_6_8() -> None:
    if Feature.MOVE not in offer()[0]:
        absent("the ioctl masks expected here are those of Linux 6.8 and newer")


@pytest.mark.parametrize("name", REGISTRABLE)
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        (Mode.MISSING, Ioctls(0)),
        (Mode.WP, Ioctls.WRITEPROTECT),
        (Mode.MISSING | Mode.WP, Ioctls.WRITEPROTECT),
    ],
    ids=["missing", "wp", "missing-wp"],
)
def test_every_memory_can_be_registered_for_missing_and_wp(
    world: World, name: str, mode: Mode, more: Ioctls
) -> None:
    mapping, uffd = world.map(name), world.userfaultfd()

    granted = uffd.register(mapping.address, mapping.length, mode)

    small = Ioctls(0) if mapping.memory.type is MemoryType.HUGETLB else SMALL
    assert granted == BASIC | small | more


@pytest.mark.parametrize("name", [*CACHED, "hugetlb-private"])
@pytest.mark.parametrize("mode", [Mode.MINOR, Mode.MINOR | Mode.MISSING])
def test_memory_with_a_page_cache_has_minor_faults(world: World, name: str, mode: Mode) -> None:
    mapping, uffd = world.map(name), world.userfaultfd()

    assert Ioctls.CONTINUE in uffd.register(mapping.address, mapping.length, mode)


def test_anonymous_memory_has_no_minor_faults_and_the_refusal_says_why(world: World) -> None:
    mapping, uffd = world.map("anon"), world.userfaultfd()

    with pytest.raises(RegistrationRefused) as caught:
        uffd.register(mapping.address, PAGE, Mode.MISSING | Mode.MINOR, memory=mapping.memory)

    assert caught.value.errno == errno.EINVAL
    assert "anon (4 KiB pages) in mode MISSING|MINOR" in str(caught.value)
    assert "no page cache" in caught.value.cause
    assert "shmem" in caught.value.cure


@pytest.mark.parametrize("name", ["anon", "shmem", "hugetlb"])
def test_rwp_is_refused_where_the_kernel_has_none_and_accepted_where_it_has(
    world: World, name: str
) -> None:
    mapping = world.map(name)
    if Feature.RWP in offer()[0]:
        uffd = world.userfaultfd(Feature.RWP)
        granted = uffd.register(mapping.address, mapping.length, Mode.RWP)
        assert Ioctls.RWPROTECT in granted
        return
    uffd = world.userfaultfd()

    with pytest.raises(RegistrationRefused, match=r"mode RWP") as caught:
        uffd.register(mapping.address, mapping.length, Mode.RWP, memory=mapping.memory)

    assert "7.3" in caught.value.cause


@pytest.mark.parametrize(
    ("shift", "length"), [(1, PAGE), (0, PAGE + 1), (0, 0)], ids=["start", "length", "empty"]
)
def test_a_range_that_is_not_whole_pages_is_refused_with_the_page_size(
    world: World, shift: int, length: int
) -> None:
    mapping, uffd = world.map("anon", 3), world.userfaultfd()

    with pytest.raises(RegistrationRefused) as caught:
        uffd.register(mapping.address + shift, length, Mode.MISSING)

    assert caught.value.errno == errno.EINVAL
    assert "whole pages" in caught.value.cause
    assert "4 KiB" in caught.value.cure


@pytest.mark.parametrize(("shift", "length"), [(PAGE, 0), (0, -PAGE)], ids=["start", "end"])
def test_huge_pages_are_registered_whole_and_the_refusal_names_their_size(
    world: World, shift: int, length: int
) -> None:
    mapping, uffd = world.map("hugetlb", 2), world.userfaultfd()

    with pytest.raises(RegistrationRefused) as caught:
        uffd.register(
            mapping.address + shift,
            mapping.memory.page_size + length,
            Mode.MISSING,
            memory=mapping.memory,
        )

    assert caught.value.cure == "align start and length to 2 MiB"


def test_a_range_without_any_mapping_is_refused(world: World) -> None:
    mapping, uffd = world.map("anon", 3), world.userfaultfd()
    libc.munmap(mapping.address + PAGE, PAGE)

    with pytest.raises(RegistrationRefused, match="nothing is mapped there"):
        uffd.register(mapping.address + PAGE, PAGE, Mode.MISSING)


def test_a_range_beyond_the_address_space_is_refused(world: World) -> None:
    with pytest.raises(RegistrationRefused):
        world.userfaultfd().register((1 << 64) - PAGE, PAGE, Mode.MISSING)


def test_holes_in_a_registered_range_are_skipped(world: World) -> None:
    mapping, uffd = world.map("anon", 3), world.userfaultfd()
    libc.munmap(mapping.address + PAGE, PAGE)

    uffd.register(mapping.address, mapping.length, Mode.MISSING)

    for at in (0, 2):
        assert uffd.copy(mapping.address + at * PAGE, pages(at, 1), PAGE) == PAGE


def test_no_mode_at_all_is_refused(world: World) -> None:
    mapping, uffd = world.map("anon"), world.userfaultfd()

    with pytest.raises(RegistrationRefused, match="mode 0"):
        uffd.register(mapping.address, PAGE, Mode(0))


@pytest.mark.parametrize("name", REGISTRABLE)
def test_memory_of_another_userfaultfd_is_busy(world: World, name: str) -> None:
    mapping, _ = world.registered(name)

    with pytest.raises(RegistrationRefused, match="another userfaultfd owns") as caught:
        world.userfaultfd().register(mapping.address, mapping.length, Mode.MISSING)

    assert caught.value.errno == errno.EBUSY


def test_a_shared_mapping_that_can_never_be_written_is_refused(world: World) -> None:
    source = world.map("shmem")
    assert source.backing
    fd = os.open(f"/proc/self/fd/{source.backing.fileno()}", os.O_RDONLY)
    address = libc.mmap(0, PAGE, mman.PROT_READ, mman.MAP_SHARED, fd, 0)
    os.close(fd)
    try:
        with pytest.raises(RegistrationRefused, match="never become writable") as caught:
            world.userfaultfd().register(address, PAGE, Mode.MISSING)
        assert caught.value.errno == errno.EPERM
    finally:
        libc.munmap(address, PAGE)


def test_registering_again_widens_the_modes(world: World) -> None:
    mapping, uffd = world.registered("anon")

    granted = uffd.register(mapping.address, PAGE, Mode.MISSING | Mode.WP)

    assert Ioctls.WRITEPROTECT in granted


@pytest.mark.parametrize("name", REGISTRABLE)
def test_unregistered_memory_is_not_filled_any_more(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)

    uffd.unregister(mapping.address, mapping.length)
    uffd.unregister(mapping.address, mapping.length)  # twice is no error

    with pytest.raises(NotRegistered) as caught:
        uffd.copy(mapping.address, bytes(mapping.length), mapping.length)
    assert "register it first" in caught.value.cure


def test_unregistering_wakes_those_who_wait_for_a_missing_page(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touch = world.task().read(mapping.address, PAGE)
    world.settle()
    assert touch.state is State.BLOCKED

    uffd.unregister(mapping.address, PAGE)

    assert touch.result().data == bytes(PAGE)


def test_unregistering_does_not_wake_those_who_wait_for_a_minor_fault(world: World) -> None:
    mapping, uffd = world.registered("shmem", mode=Mode.MINOR)
    assert mapping.backing
    mapping.backing.write(0, pages(5, 1))
    touch = world.task().read(mapping.address, PAGE)
    world.settle()

    uffd.unregister(mapping.address, PAGE)

    assert touch.state is State.BLOCKED
    uffd.wake(mapping.address, PAGE)
    assert touch.result().data == pages(5, 1)


def test_part_of_a_range_can_be_unregistered(world: World) -> None:
    mapping, uffd = world.registered("shmem", 3)

    uffd.unregister(mapping.address + PAGE, PAGE)

    uffd.copy(mapping.address, pages(0, 1), PAGE)
    uffd.copy(mapping.address + 2 * PAGE, pages(2, 1), PAGE)
    with pytest.raises(NotRegistered):
        uffd.copy(mapping.address + PAGE, pages(1, 1), PAGE)


def test_unregistering_nothing_is_a_typed_error(world: World) -> None:
    with pytest.raises(KernelError, match=r"UFFDIO_UNREGISTER failed with EINVAL on \[0x"):
        world.userfaultfd().unregister(0x1000, 1)


def test_the_general_explanation_stands_where_no_reason_is_known(world: World) -> None:
    mapping, uffd = world.map("shmem"), world.userfaultfd()
    libc.munmap(mapping.address, PAGE)

    with pytest.raises(RegistrationRefused) as caught:
        uffd.register(mapping.address, PAGE, Mode.MISSING, memory=memory("shmem"))

    assert "shmem (4 KiB pages) in mode MISSING" in str(caught.value)
    assert "nothing is mapped there" in caught.value.cause
