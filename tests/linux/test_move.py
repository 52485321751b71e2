"""UFFDIO_MOVE: pages change their place without a copy."""

from __future__ import annotations

import errno

import pytest

from helpers.pages import PAGE, pages
from helpers.skips import need_features
from helpers.world import World
from userfault.kernel.errors import KernelError, NotRegistered, PageExists
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.uapi import mman


@pytest.fixture(autouse=True)
def _as_of_6_8() -> None:
    need_features(Feature.MOVE)


def test_a_moved_page_is_gone_at_the_source_and_writable_at_the_destination(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    source = world.map("anon", 2)
    libc.write_memory(source.address, pages(4, 2))

    assert uffd.move(mapping.address, source.address, 2 * PAGE) == 2 * PAGE

    assert [entry.present for entry in world.pagemap.entries(source.address, 2)] == [False] * 2
    task = world.task()
    assert task.read(mapping.address, 2 * PAGE).result().data == pages(4, 2)
    task.write(mapping.address, b"mine").result()
    assert list(uffd.read()) == []


def test_a_hole_at_the_source_is_refused_unless_allowed(world: World) -> None:
    mapping, uffd = world.registered("anon")
    source = world.map("anon")

    with pytest.raises(NotRegistered, match="allow_src_holes"):
        uffd.move(mapping.address, source.address, PAGE)

    assert uffd.move(mapping.address, source.address, PAGE, allow_src_holes=True) == PAGE
    assert not world.pagemap.present(mapping.address)


def test_a_move_onto_a_present_page_is_refused(world: World) -> None:
    mapping, uffd = world.registered("anon")
    source = world.map("anon")
    libc.write_memory(source.address, pages(1, 1))
    uffd.zeropage(mapping.address, PAGE)

    with pytest.raises(PageExists) as caught:
        uffd.move(mapping.address, source.address, PAGE)

    assert caught.value.resume == mapping.address
    assert world.pagemap.present(source.address)


@pytest.mark.parametrize("name", ["shmem", "shmem-private", "hugetlb", "hugetlb-private"])
def test_only_anonymous_memory_moves(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)
    source = world.map("anon", mapping.length // PAGE)
    libc.write_memory(source.address, bytes(mapping.length))

    if name == "shmem-private":  # its private pages are anonymous, the mapping is not
        assert not mapping.memory.traits.movable
    with pytest.raises(KernelError) as caught:
        uffd.move(mapping.address, source.address, mapping.length)
    assert caught.value.errno == errno.EINVAL


def test_a_move_to_memory_of_another_userfaultfd_is_refused(world: World) -> None:
    mapping, _ = world.registered("anon")
    source = world.map("anon")
    libc.write_memory(source.address, pages(1, 1))

    with pytest.raises(KernelError) as caught:
        world.userfaultfd().move(mapping.address, source.address, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_a_move_between_different_protections_is_refused(world: World) -> None:
    mapping, uffd = world.registered("anon")
    source = world.map("anon")
    libc.write_memory(source.address, pages(1, 1))
    libc.mprotect(source.address, PAGE, mman.PROT_READ)

    with pytest.raises(KernelError) as caught:
        uffd.move(mapping.address, source.address, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_a_move_wakes_who_waits_for_the_page(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=Mode.MISSING)
    source = world.map("anon")
    libc.write_memory(source.address, pages(2, 1))
    touch = world.task().read(mapping.address, PAGE)
    world.settle()

    uffd.move(mapping.address, source.address, PAGE)

    assert touch.result().data == pages(2, 1)
