"""Tasks, pending operations and settle(): how far an operation is, told without sleeping."""

from __future__ import annotations

import errno
import time

import pytest

from helpers.pages import PAGE, pages
from helpers.world import World
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import memory
from userfault.kernel.protocol import Kernel, Mapping, Outcome, Pending, State, Task, Userfaultfd
from userfault.linux import libc
from userfault.linux.process import LiveKernel
from userfault.uapi import mman


def test_the_live_kernel_is_a_kernel(world: World) -> None:
    """mypy holds each of these assignments against the protocol."""
    mapping, uffd = world.registered("shmem")
    kernel: Kernel = LiveKernel()
    held: Mapping = mapping
    context: Userfaultfd = uffd
    task: Task = world.task()
    pending: Pending = task.read(0, 0)

    assert kernel.name.startswith("Linux ")
    assert held.memory == memory("shmem")
    assert context.features == 0
    assert pending.result() == Outcome()


def test_a_blocked_operation_says_what_it_waits_for_and_later_that_it_is_done(
    world: World,
) -> None:
    mapping, uffd = world.registered("anon")
    pending = world.task().read(mapping.address, PAGE)
    world.settle()

    assert (pending.state, pending.waits_for) == (State.BLOCKED, "fault")
    uffd.copy(mapping.address, pages(1, 1), PAGE)
    pending.result()
    assert (pending.state, pending.waits_for) == (State.DONE, "")


def test_operations_of_a_task_run_in_the_order_given(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    task = world.task()
    first = task.write(mapping.address, b"first")
    second = task.read(mapping.address, 5)
    world.settle()  # what stands behind a blocked operation does not keep it from returning

    assert (first.state, second.state) == (State.BLOCKED, State.NOT_STARTED)
    uffd.zeropage(mapping.address, PAGE)
    assert second.result().data == b"first"


def test_a_result_that_does_not_come_is_a_timeout_that_says_why(world: World) -> None:
    mapping, uffd = world.registered("anon")
    pending = world.task().read(mapping.address, 1)
    world.settle()

    with pytest.raises(TimeoutError, match=r"not done after 0.01 s: blocked on fault"):
        pending.result(0.01)
    uffd.zeropage(mapping.address, PAGE)


def test_a_call_that_fails_has_its_errno_as_outcome(world: World) -> None:
    mapping = world.map("anon")

    outcome = world.task().madvise(mapping.address + 1, PAGE, mman.MADV_DONTNEED).result()

    assert outcome == Outcome(errno=errno.EINVAL)


def test_a_mistake_in_a_call_reaches_who_waits_and_the_task_goes_on(world: World) -> None:
    task = world.task()
    mistake = task.write(0, None)  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        mistake.result()
    assert task.read(0, 0).result() == Outcome()


def test_settle_gives_up_on_a_task_that_runs_and_runs(world: World) -> None:
    task = world.task()
    going = [True]

    def spin() -> Outcome:
        while going[0]:
            time.sleep(0.001)
        return Outcome()

    pending = task.call(spin)
    with pytest.raises(TimeoutError, match="tasks still run"):
        world.kernel.settle(0.05)
    assert pending.state is State.RUNNING
    going[0] = False
    pending.result()
    world.settle()


def test_settle_of_nothing_returns_at_once(world: World) -> None:
    world.task()
    world.kernel.settle(0.5)


def test_tasks_protect_unmap_and_move(world: World) -> None:
    mapping, room = world.map("anon", 3), world.map("anon", 3)
    task = world.task()
    task.write(mapping.address, pages(1, 1)).result()
    task.mprotect(mapping.address, PAGE, mman.PROT_READ).result()
    moved = task.mremap(
        mapping.address, PAGE, PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, room.address
    ).result()
    task.munmap(mapping.address + PAGE, PAGE).result()

    assert moved.value == room.address
    assert task.read(room.address, PAGE).result().data == pages(1, 1)
    with pytest.raises(OSError, match="mincore"):
        libc.mincore(mapping.address + PAGE, PAGE)


# --- mappings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private"])
def test_a_mapping_is_whole_pages_and_knows_its_memory(world: World, name: str) -> None:
    mapping = world.map(name)
    rounded = world.process.map(memory(name), 1) if "hugetlb" not in name else None

    assert mapping.address % mapping.memory.page_size == 0
    assert mapping.memory.name == name
    assert (mapping.backing is None) is (name in ("anon", "hugetlb-private"))
    if rounded:
        assert rounded.length == PAGE
        rounded.close()


@pytest.mark.parametrize("name", ["shmem", "hugetlb"])
def test_an_alias_shows_the_same_memory_from_an_offset(world: World, name: str) -> None:
    mapping = world.map(name, 2)
    size = mapping.memory.page_size
    alias = world.map(name, 1, backing=mapping.backing, offset=size)

    world.task().write(mapping.address + size, b"shared").result()

    assert world.task().read(alias.address, 6).result().data == b"shared"


def test_a_mapping_can_be_read_only(world: World) -> None:
    mapping = world.map("shmem", writable=False)
    assert mapping.backing
    mapping.backing.write(0, b"text")

    assert world.task().read(mapping.address, 4).result().data == b"text"
    with pytest.raises(OSError, match="madvise"):
        libc.madvise(mapping.address, PAGE, mman.MADV_POPULATE_WRITE)


@pytest.mark.parametrize("name", ["shmem", "hugetlb"])
def test_the_file_behind_a_mapping_is_read_written_and_punched(world: World, name: str) -> None:
    mapping = world.map(name)
    assert mapping.backing
    assert mapping.backing.length == mapping.length

    mapping.backing.write(10, b"from the file")
    assert world.task().read(mapping.address + 10, 13).result().data == b"from the file"
    assert mapping.backing.read(15, 3) == b"the"
    mapping.backing.punch_hole(0, mapping.length)
    assert mapping.backing.read(10, 4) == bytes(4)


def test_an_alias_of_part_of_a_page_is_a_usage_error(world: World) -> None:
    mapping = world.map("shmem")

    with pytest.raises(UsageError, match="not whole pages"):
        world.process.map(mapping.memory, 100, backing=mapping.backing)


@pytest.mark.parametrize("length", [0, -1])
def test_memory_of_no_bytes_is_a_usage_error(world: World, length: int) -> None:
    with pytest.raises(UsageError, match="at least one page"):
        world.process.map(memory("anon"), length)
