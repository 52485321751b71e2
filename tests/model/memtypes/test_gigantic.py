"""Huge pages of both sizes: filled whole, their content interned, the pool counted at each step."""

from __future__ import annotations

import errno

import pytest

from userfault.kernel.errors import KernelError, MemoryUnavailable
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import GIB, MIB, memory
from userfault.kernel.modes import FaultFlag, Mode
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelProcess
from userfault.model.profiles import LINUX_6_17, LINUX_6_18, NEXT, Config, Profile
from userfault.uapi import mman

PAGE = 4096
SIZES = [2 * MIB, GIB]
by_size = pytest.mark.parametrize("size", SIZES, ids=["2MiB", "1GiB"])


def world(
    size: int, name: str = "hugetlb", mode: Mode = Mode.MISSING, profile: Profile = NEXT
) -> tuple[ModelKernel, ModelProcess, ModelMapping, ModelUserfaultfd]:
    """Two huge pages, registered, promised from a pool that has just them."""
    kernel = ModelKernel(profile, Config(thp="always"))  # for the source: a GiB in 512 faults
    process = kernel.process()
    area = process.map(memory(name, size), 2 * size, grow_pool=True)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, mode)
    return kernel, process, area, uffd


def counts(kernel: ModelKernel, size: int) -> tuple[int, int, int]:
    """Of the pool: all pages, those that nobody has, those of them that are promised."""
    pool = kernel.machine.memory.pools[size.bit_length() - 1]
    return pool.total, pool.free, pool.reserved


def source(process: ModelProcess, size: int) -> ModelMapping:
    """Anonymous memory to copy from, with bytes at its start, in its middle and at its end."""
    held = process.map(memory("anon"), size)
    task = process.task()
    for at in (0, size // 2, size - PAGE):
        task.write(held.address + at, b"at %d" % at).result()
    return held


def refused(code: int, uffd: ModelUserfaultfd, to: int, held: ModelMapping) -> None:
    """COPY of the whole source fails so."""
    with pytest.raises(KernelError) as caught:
        uffd.copy(to, held.address, held.length)
    assert caught.value.errno == code


@by_size
def test_copy_ends_the_fault_with_a_whole_page_and_a_second_one_is_eexist(size: int) -> None:
    kernel, process, area, uffd = world(size)
    held = source(process, size)
    touch = process.task().read(area.address + size // 2, 12)
    kernel.settle()
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    assert (fault.address, fault.flags) == (area.address, 0)
    kernel.check()

    assert uffd.copy(area.address, held.address, size) == size

    assert touch.result().data == (b"at %d" % (size // 2)).ljust(12, b"\0")
    reader = process.task()
    last = b"at %d" % (size - PAGE)
    assert reader.read(area.address + size - PAGE, len(last)).result().data == last
    assert reader.read(area.address + PAGE, 8).result().data == bytes(8)
    refused(errno.EEXIST, uffd, area.address, held)
    kernel.check()


def test_a_gigantic_page_holds_its_source_not_a_copy_of_it() -> None:
    kernel, process, area, uffd = world(GIB)
    held = process.map(memory("hugetlb", GIB), GIB, grow_pool=True)
    process.task().write(held.address + 5 * PAGE, b"five").result()
    uffd.copy(area.address, held.address, GIB)
    assert area.backing is not None
    assert held.backing is not None
    taken, given = (behind.object.cache[0].content for behind in (area.backing, held.backing))
    assert taken == {5: b"five"}
    assert isinstance(given, dict)
    assert taken[5] is given[5]
    assert taken is not given
    kernel.check()


@by_size
def test_part_of_a_huge_page_is_einval_and_changes_nothing(size: int) -> None:
    kernel, process, area, uffd = world(size)
    held = process.map(memory("anon"), PAGE)
    refused(errno.EINVAL, uffd, area.address, held)
    refused(errno.EINVAL, uffd, area.address + PAGE, held)
    assert counts(kernel, size) == (2, 2, 2)
    kernel.check()


@by_size
@pytest.mark.parametrize("name", ["hugetlb", "hugetlb-private"])
def test_a_promise_is_used_by_copy_and_given_back_with_the_mapping(name: str, size: int) -> None:
    kernel, process, area, uffd = world(size, name)
    held = source(process, size)
    assert counts(kernel, size) == (2, 2, 2)
    uffd.copy(area.address, held.address, size)
    assert counts(kernel, size) == (2, 1, 1)
    refused(errno.EEXIST, uffd, area.address, held)
    assert counts(kernel, size) == (2, 1, 1)
    kernel.check()
    area.close()
    assert counts(kernel, size) == (2, 2, 0)
    kernel.check()


@by_size
def test_a_pool_that_is_all_promised_refuses_the_next_mapping(size: int) -> None:
    kernel, process, _, _ = world(size)
    with pytest.raises(MemoryUnavailable):
        process.map(memory("hugetlb", size), size)
    assert counts(kernel, size) == (2, 2, 2)
    other = SIZES[1 - SIZES.index(size)]
    assert counts(kernel, other) == (0, 0, 0)
    kernel.check()


@by_size
@pytest.mark.parametrize(
    ("profile", "code"), [(LINUX_6_17, errno.ENOMEM), (LINUX_6_18, errno.EEXIST)]
)
def test_an_empty_pool_has_the_errno_of_the_version(profile: Profile, code: int, size: int) -> None:
    kernel, process, area, uffd = world(size, "hugetlb-private", profile=profile)
    held = source(process, size)
    uffd.copy(area.address, held.address, size)
    held.close()
    child = kernel.by_pid(process.task().fork().result().value)
    heir = child.userfaultfd()
    heir.register(area.address, area.length, Mode.MISSING)
    refused(
        code, heir, area.address + size, source(child, size)
    )  # what is left was promised to the parent
    assert counts(kernel, size) == (2, 1, 1)
    kernel.check()
    uffd.copy(area.address + size, source(process, size).address, size)
    assert counts(kernel, size) == (2, 0, 0)
    kernel.check()


@by_size
def test_a_touch_with_an_empty_pool_is_sigbus(size: int) -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(memory("hugetlb-private", size), size, grow_pool=True)
    task = process.task()
    task.write(area.address, b"parent").result()
    child = kernel.by_pid(task.fork().result().value)
    assert child.task().write(area.address, b"child").result().signal == 7
    assert task.read(area.address, 6).result().data == b"parent"
    assert counts(kernel, size) == (1, 0, 0)
    kernel.check()


@by_size
def test_continue_maps_the_page_of_the_file_and_takes_none(size: int) -> None:
    kernel, process, area, uffd = world(size, mode=Mode.MINOR)
    alias = process.map(memory("hugetlb", size), area.length, backing=area.backing)
    process.task().write(alias.address + PAGE, b"alias").result()
    assert counts(kernel, size) == (2, 1, 1)
    touch = process.task().read(area.address + PAGE, 5)
    kernel.settle()
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    assert (fault.address, fault.flags) == (area.address, FaultFlag.MINOR)
    assert uffd.continue_(area.address, size) == size
    assert touch.result().data == b"alias"
    assert counts(kernel, size) == (2, 1, 1)
    kernel.check()


@by_size
def test_a_page_goes_back_to_the_pool_with_the_last_that_holds_it(size: int) -> None:
    kernel, process, area, uffd = world(size)
    held = source(process, size)
    uffd.copy(area.address, held.address, size)
    task = process.task()
    task.madvise(area.address, size, mman.MADV_DONTNEED).result()
    assert counts(kernel, size) == (2, 1, 1)  # unmapped; the file has it
    task.madvise(area.address, size, mman.MADV_REMOVE).result()
    assert counts(kernel, size) == (2, 2, 1)  # a hole is promised to nobody
    kernel.check()
    process.exit()
    kernel.check()
