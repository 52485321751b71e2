"""Two tasks at one private page: while one copies it, or maps what is around it."""

from __future__ import annotations

import os

import pytest

from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Call, Mmap, Read, Write
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import LINUX_6_18
from userfault.model.tasks.sched import Scheduler
from userfault.model.tasks.strategies import InOrder, Seeded
from userfault.uapi import mman
from userfault.uapi import pagemap as pm
from userfault.uapi import userfaultfd as abi

AT = calls.place(1)


def _waits(scheduler: Scheduler, touch: Call, *, of_a_file: bool) -> str:
    """What a touch of the zero page waits for that another task is writing to."""
    kernel = ModelCalls(LINUX_6_18, scheduler=scheduler)
    process = kernel.process()
    writer, other = process.tasks[0], process.task()
    fd = -1
    flags = mman.MAP_PRIVATE | mman.MAP_FIXED_NOREPLACE | mman.MAP_ANONYMOUS
    if of_a_file:
        fd = writer.call(calls.MemfdCreate()).result().value
        assert writer.call(calls.Ftruncate(fd, PAGE)).result().ok
        flags &= ~mman.MAP_ANONYMOUS
    assert writer.call(Mmap(AT, PAGE, flags=flags, fd=fd)).result().ok
    uffd = writer.call(calls.Userfaultfd(os.O_NONBLOCK)).result().value
    for request, argument in (
        (abi.UFFDIO_API, abi.uffdio_api.struct.pack(abi.UFFD_API, 0, 0)),
        (abi.UFFDIO_REGISTER, abi.uffdio_register.struct.pack(AT, PAGE, 1, 0)),
        (abi.UFFDIO_ZEROPAGE, abi.uffdio_zeropage.struct.pack(AT, PAGE, 0, 0)),
    ):
        assert writer.call(calls.Ioctl(uffd, request, argument)).result().ok
    writer.call(Write(AT, b"w"))
    pending = other.call(touch)
    kernel.settle()
    return pending.waits_for


_TOUCHES = pytest.mark.parametrize("touch", [Read(AT, 1), Write(AT, b"o")], ids=["read", "write"])


@_TOUCHES
def test_a_touch_in_the_middle_of_a_copy_sends_a_message_for_a_page_that_is_present(
    touch: Call,
) -> None:
    found = {_waits(Seeded(seed), touch, of_a_file=True) for seed in range(64)}

    assert found == {"", calls.WAITS_FAULT}
    assert _waits(InOrder(), touch, of_a_file=True) == ""


@_TOUCHES
def test_a_touch_in_the_middle_of_a_copy_of_anonymous_memory_sends_none(touch: Call) -> None:
    # do_anonymous_page() looks again under the lock of the page table.  Measured on 6.18: none in
    # 790,000 pages that two threads wrote at once, and 937 in 730,000 of a private file mapping.
    assert {_waits(Seeded(seed), touch, of_a_file=False) for seed in range(64)} == {""}


def _reads_beside_a_write(scheduler: Scheduler) -> tuple[bytes, bool]:
    """A private page of a file that one task reads while another writes it; is the next mapped?"""
    kernel = ModelCalls(LINUX_6_18, scheduler=scheduler)
    process = kernel.process()
    reader, writer = process.tasks[0], process.task()
    fd = reader.call(calls.MemfdCreate()).result().value
    assert reader.call(calls.Ftruncate(fd, 2 * PAGE)).result().ok
    assert reader.call(calls.Pwrite(fd, b"next", PAGE)).result().ok
    private = mman.MAP_PRIVATE | mman.MAP_FIXED_NOREPLACE
    assert reader.call(Mmap(AT, 2 * PAGE, flags=private, fd=fd)).result().ok
    read = reader.call(Read(AT, 1))
    assert writer.call(Write(AT, b"w")).result().ok
    data = read.result().data
    word = reader.call(calls.Pagemap(AT + PAGE, PAGE)).result().data
    return data, bool(int.from_bytes(word, "little") & pm.PM_PRESENT)


def test_a_read_fault_that_has_mapped_its_neighbours_may_find_its_own_page_written() -> None:
    found = {_reads_beside_a_write(Seeded(seed)) for seed in range(64)}

    assert found == {(b"\0", True), (b"w", False), (b"w", True)}
    assert _reads_beside_a_write(InOrder()) == (b"\0", True)
