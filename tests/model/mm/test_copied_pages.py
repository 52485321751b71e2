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


def _waits(scheduler: Scheduler, touch: Call) -> str:
    """What a touch of the zero page waits for that another task is writing to."""
    kernel = ModelCalls(LINUX_6_18, scheduler=scheduler)
    process = kernel.process()
    writer, other = process.tasks[0], process.task()
    assert writer.call(Mmap(AT, PAGE)).result().ok
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


@pytest.mark.parametrize("touch", [Read(AT, 1), Write(AT, b"o")], ids=["read", "write"])
def test_a_touch_in_the_middle_of_a_copy_sends_a_message_for_a_page_that_is_present(
    touch: Call,
) -> None:
    found = {_waits(Seeded(seed), touch) for seed in range(64)}

    assert found == {"", calls.WAITS_FAULT}
    assert _waits(InOrder(), touch) == ""


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
