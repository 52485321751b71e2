"""Soft-dirty bits: which writes and fills leave one, and that userfaultfd hears nothing of them."""

from __future__ import annotations

import pytest

from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import MIB, memory
from userfault.kernel.modes import Mode
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelProcess
from userfault.model.mm.scan import Scan, ScanArgument, words
from userfault.model.profiles import Config
from userfault.uapi import mman
from userfault.uapi import pagemap as pm

PAGE = 4096


def world(
    name: str = "anon", *, soft_dirty: bool = True
) -> tuple[ModelKernel, ModelProcess, ModelMapping]:
    kernel = ModelKernel(config=Config(soft_dirty=soft_dirty))
    process = kernel.process()
    return kernel, process, process.map(memory(name), 4 * PAGE, grow_pool=True)


def dirty(process: ModelProcess, area: ModelMapping) -> list[bool]:
    """Bit 55 of each base page of the first four."""
    return [
        bool(word & pm.PM_SOFT_DIRTY)
        for word in words(process.process.mm, area.address, min(area.length, 4 * PAGE))
    ]


def listed(process: ModelProcess, area: ModelMapping) -> list[tuple[int, int]]:
    """What PAGEMAP_SCAN lists as soft dirty, in pages from the start of the area."""
    wanted = pm.PAGE_IS_SOFT_DIRTY
    end = area.address + area.length
    found = Scan(
        process.process.mm,
        ScanArgument(area.address, end, 0, wanted, 0, 0, wanted, 0, 16),
    ).regions
    return [
        ((start - area.address) // PAGE, (stop - area.address) // PAGE) for start, stop, _ in found
    ]


@pytest.mark.parametrize("name", ["anon", "shmem", "shmem-private", "hugetlb"])
def test_a_new_mapping_is_soft_dirty_as_a_whole_until_it_is_cleared(name: str) -> None:
    kernel, process, area = world(name)
    assert dirty(process, area) == [True] * 4
    assert listed(process, area) == [(0, area.length // PAGE)]  # measured on 6.12 to 7.3
    process.task().write(area.address, b"x").result()
    process.clear_soft_dirty()
    assert dirty(process, area) == [False] * 4
    kernel.check()


def test_without_the_configuration_there_is_no_bit_and_clearing_does_nothing() -> None:
    kernel, process, area = world(soft_dirty=False)
    process.task().write(area.address, b"x").result()
    process.clear_soft_dirty()
    assert dirty(process, area) == [False] * 4
    assert listed(process, area) == []
    kernel.check()


@pytest.mark.parametrize("name", ["anon", "shmem", "shmem-private"])
def test_a_store_leaves_the_bit_and_a_load_does_not(name: str) -> None:
    kernel, process, area = world(name)
    task = process.task()
    task.write(area.address, b"before").result()
    process.clear_soft_dirty()
    task.read(area.address, 4 * PAGE).result()
    assert dirty(process, area) == [False] * 4
    task.write(area.address, b"x").result()  # a page that was there
    task.write(area.address + 2 * PAGE, b"x").result()  # one that a load had mapped
    assert dirty(process, area) == [True, False, True, False]
    assert listed(process, area) == [(0, 1), (2, 3)]
    assert task.read(area.address, 6).result().data == b"xefore"
    kernel.check()


def test_what_userfaultfd_fills_is_soft_dirty_except_for_the_zero_page() -> None:
    kernel, process, area = world()
    source = process.map(memory("anon"), PAGE)
    process.task().write(source.address, b"moved").result()
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING | Mode.WP)
    process.clear_soft_dirty()
    uffd.copy(area.address, b"x" * PAGE, PAGE)
    uffd.zeropage(area.address + PAGE, PAGE)
    uffd.move(area.address + 2 * PAGE, source.address, PAGE)
    assert dirty(process, area) == [True, False, True, False]
    process.clear_soft_dirty()
    uffd.writeprotect(area.address, PAGE, protect=True)
    uffd.writeprotect(area.address, PAGE, protect=False)
    assert dirty(process, area) == [False] * 4
    kernel.check()


def test_a_page_that_continue_maps_is_soft_dirty() -> None:
    kernel, process, area = world("shmem")
    alias = process.map(memory("shmem"), area.length, backing=area.backing)
    process.task().write(alias.address, b"x").result()
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MINOR)
    process.clear_soft_dirty()
    uffd.continue_(area.address, PAGE)
    assert dirty(process, area) == [True, False, False, False]
    assert dirty(process, alias) == [False] * 4
    kernel.check()


def test_the_fault_of_a_cleared_page_is_no_message_and_a_protected_one_still_is() -> None:
    kernel, process, area = world()
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING | Mode.WP)
    uffd.copy(area.address, b"x" * 2 * PAGE, 2 * PAGE)
    uffd.writeprotect(area.address + PAGE, PAGE, protect=True)
    process.clear_soft_dirty()
    task = process.task()
    task.write(area.address, b"a").result()
    assert not uffd.read()
    protected = task.write(area.address + PAGE, b"b")
    kernel.settle()
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    assert fault.address == area.address + PAGE
    assert dirty(process, area) == [True, False, False, False]
    uffd.writeprotect(area.address + PAGE, PAGE, protect=False)
    protected.result()
    assert dirty(process, area) == [True, True, False, False]
    kernel.check()


def test_pages_that_mremap_moved_are_soft_dirty_and_their_registration_is_as_ever() -> None:
    kernel, process, area = world()
    task = process.task()
    task.write(area.address, b"x").result()
    task.read(area.address + PAGE, 1).result()
    process.clear_soft_dirty()
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    to = area.address - 64 * MIB
    assert task.mremap(area.address, area.length, area.length, flags, to).result().value == to
    bits = [bool(word & pm.PM_SOFT_DIRTY) for word in words(process.process.mm, to, 4 * PAGE)]
    assert bits == [True, True, False, False]
    kernel.check()


def test_mappings_join_whether_soft_dirty_or_not_and_the_whole_is() -> None:
    kernel, process, area = world()
    process.clear_soft_dirty()
    task = process.task()
    assert task.mprotect(area.address, PAGE, mman.PROT_READ).result().errno == 0
    task.munmap(area.address, PAGE).result()
    assert dirty(process, area)[1:] == [False] * 3
    again = process.map(memory("anon"), PAGE)
    space = process.process.mm
    assert len(space.overlapping(area.address, area.address + area.length)) == 1
    assert again.address == area.address
    assert dirty(process, area)[1:] == [True] * 3
    kernel.check()


def test_a_child_has_the_bits_of_its_parent() -> None:
    kernel, process, area = world()
    task = process.task()
    task.write(area.address, b"xx").result()
    process.clear_soft_dirty()
    child = kernel.by_pid(task.fork().result().value)
    assert dirty(child, area) == [False] * 4
    child.task().write(area.address, b"y").result()
    assert dirty(child, area) == [True, False, False, False]
    assert dirty(process, area) == [False] * 4
    assert task.read(area.address, 2).result().data == b"xx"
    kernel.check()
