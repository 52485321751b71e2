"""hugetlb pages of 1 GiB: as other huge pages, only that every page costs."""

from __future__ import annotations

import errno

import pytest

from helpers.pages import PAGE, pages
from helpers.world import World
from userfault.kernel.errors import KernelError, PageExists
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import GIB, Memory, MemoryType
from userfault.kernel.modes import FaultFlag, Ioctls, Mode
from userfault.kernel.protocol import State
from userfault.linux import libc
from userfault.uapi import mman

SHARED = Memory(MemoryType.HUGETLB, GIB, True)
PRIVATE = Memory(MemoryType.HUGETLB, GIB, False)


@pytest.mark.parametrize("wanted", [SHARED, PRIVATE], ids=["shared", "private"])
def test_registration_is_by_whole_pages(world: World, wanted: Memory) -> None:
    mapping, uffd = world.map(wanted), world.userfaultfd()

    with pytest.raises(KernelError, match="align start and length to 1 GiB"):
        uffd.register(mapping.address, GIB // 2, Mode.MISSING, memory=wanted)
    granted = uffd.register(mapping.address, GIB, Mode.MISSING | Mode.MINOR | Mode.WP)

    assert Ioctls.COPY | Ioctls.CONTINUE | Ioctls.WRITEPROTECT | Ioctls.POISON in granted
    assert Ioctls.ZEROPAGE not in granted


def test_a_missing_page_is_copied_whole_from_memory_that_is_resident(world: World) -> None:
    """A source that is not resident takes a second page of the pool: ENOMEM, and the cure works."""
    mapping, uffd = world.registered(PRIVATE)
    source = world.map("anon", GIB // PAGE)
    last = GIB - PAGE
    libc.madvise(source.address, GIB, mman.MADV_HUGEPAGE)
    touch = world.task().read(mapping.address + last, PAGE)
    world.settle()
    assert list(uffd.read()) == [PageFault(mapping.address, 0)]

    with pytest.raises(KernelError, match="MADV_POPULATE_READ") as caught:
        uffd.copy(mapping.address, source.address, GIB)
    assert caught.value.errno == errno.ENOMEM
    libc.write_memory(source.address + last, pages(last // PAGE, 1))
    libc.madvise(source.address, GIB, mman.MADV_POPULATE_READ)
    assert uffd.copy(mapping.address, source.address, GIB) == GIB

    assert touch.result().data == pages(last // PAGE, 1)
    assert world.pagemap.present(mapping.address)


def test_a_cached_page_is_continued_and_poison_holds_the_whole_page(world: World) -> None:
    mapping, uffd = world.registered(SHARED, mode=Mode.MINOR)
    assert mapping.backing
    mapping.backing.write(GIB - PAGE, pages(7, 1))
    touch = world.task().read(mapping.address + GIB - PAGE, PAGE)
    world.settle()

    assert touch.state is State.BLOCKED
    assert list(uffd.read()) == [PageFault(mapping.address, FaultFlag.MINOR)]
    uffd.continue_(mapping.address, GIB)

    assert touch.result().data == pages(7, 1)
    with pytest.raises(PageExists):
        uffd.poison(mapping.address, GIB)
