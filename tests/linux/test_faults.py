"""Fault messages: which access raises which, and what wakes who waits."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from helpers.child import run
from helpers.pages import PAGE, pages
from helpers.world import REGISTRABLE, World
from linux.calls import peek, read_into, write_from
from userfault.kernel.errors import TryAgain
from userfault.kernel.events import PageFault
from userfault.kernel.modes import FaultFlag, Feature, Mode
from userfault.kernel.protocol import Outcome, State
from userfault.linux import libc
from userfault.uapi import mman

READ = FaultFlag(0)


def one(events: Sequence[Any]) -> PageFault:
    """The only event there is, a fault."""
    assert len(events) == 1
    assert isinstance(events[0], PageFault)
    return events[0]


@pytest.mark.parametrize("name", REGISTRABLE)
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_the_first_touch_of_a_page_is_a_message_and_waits_for_the_copy(
    world: World, name: str, writes: bool
) -> None:
    mapping, uffd = world.registered(name, 2)
    size = mapping.memory.page_size
    data = pages(0, 2 * size // PAGE)
    task, at = world.task(), mapping.address + size + 24
    touch = task.write(at, b"12345678") if writes else task.read(at, 8)
    world.settle()

    assert (touch.state, touch.waits_for) == (State.BLOCKED, "fault")
    fault = one(uffd.read())
    assert fault.address == mapping.address + size
    assert fault.missing
    assert (fault.write, fault.minor, fault.wp, fault.rwp) == (writes, False, False, False)
    uffd.copy(fault.address, memoryview(data)[size:], size)

    assert touch.result() == Outcome(data=b"" if writes else data[size + 24 : size + 32])
    assert touch.state is State.DONE
    there = b"12345678" if writes else data[size + 24 : size + 32]
    assert task.read(at, 8).result().data == there


@pytest.mark.parametrize("name", ["shmem", "shmem-private", "hugetlb"])
def test_the_first_touch_of_a_cached_page_is_a_minor_fault(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, mode=Mode.MINOR | Mode.MISSING)
    assert mapping.backing
    mapping.backing.write(0, pages(3, 1))
    touch = world.task().read(mapping.address, PAGE)
    world.settle()

    fault = one(uffd.read())
    assert (fault.flags, fault.minor, fault.missing) == (FaultFlag.MINOR, True, False)
    uffd.continue_(fault.address, mapping.length)

    assert touch.result().data == pages(3, 1)


def test_minor_alone_does_not_see_the_first_touch_of_a_page_that_is_not_cached(
    world: World,
) -> None:
    mapping, uffd = world.registered("shmem", mode=Mode.MINOR)

    assert world.task().read(mapping.address, PAGE).result().data == bytes(PAGE)
    assert list(uffd.read()) == []


def test_missing_alone_does_not_see_a_cached_page(world: World) -> None:
    mapping, uffd = world.registered("shmem")
    assert mapping.backing
    mapping.backing.write(0, pages(4, 1))

    assert world.task().read(mapping.address, PAGE).result().data == pages(4, 1)
    assert list(uffd.read()) == []


@pytest.mark.parametrize("exact", [False, True])
def test_exact_address_tells_the_byte(world: World, exact: bool) -> None:
    features = Feature.EXACT_ADDRESS if exact else Feature(0)
    mapping, uffd = world.registered("anon", features=features)
    touch = world.task().read(mapping.address + 123, 1)
    world.settle()

    fault = one(uffd.read())

    assert fault.address == mapping.address + (123 if exact else 0)
    uffd.zeropage(mapping.address, PAGE)  # a wake of the page reaches it in both cases
    touch.result()


@pytest.mark.parametrize("asked", [False, True])
def test_thread_id_names_the_thread_that_waits(world: World, asked: bool) -> None:
    mapping, uffd = world.registered("anon", features=Feature.THREAD_ID if asked else Feature(0))
    task = world.task()
    touch = task.read(mapping.address, 1)
    world.settle()

    assert one(uffd.read()).thread_id == (task.thread_id if asked else 0)
    uffd.zeropage(mapping.address, PAGE)
    touch.result()


def test_waking_without_a_page_repeats_the_message(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touch = world.task().read(mapping.address, 1)
    world.settle()
    first = one(uffd.read())
    assert list(uffd.read()) == []

    uffd.wake(mapping.address, PAGE)
    again = _next(uffd)

    assert again == first
    uffd.zeropage(mapping.address, PAGE)
    touch.result()


def _next(uffd: Any) -> PageFault:
    """The next fault, which another thread is about to raise."""
    assert select.select([uffd], [], [], 10)[0]
    return one(uffd.read())


def test_a_copy_that_does_not_wake_leaves_the_reader_asleep(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touch = world.task().read(mapping.address, PAGE)
    world.settle()

    uffd.copy(mapping.address, pages(2, 1), PAGE, wake=False)

    assert world.pagemap.present(mapping.address)
    assert touch.state is State.BLOCKED
    uffd.wake(mapping.address, PAGE)
    assert touch.result().data == pages(2, 1)


def test_all_who_wait_for_one_page_are_woken_together(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touches = [world.task().read(mapping.address, PAGE) for _ in range(4)]
    world.settle()

    assert len(uffd.read()) == 4
    uffd.copy(mapping.address, pages(2, 1), PAGE)

    assert {touch.result().data for touch in touches} == {pages(2, 1)}


def test_a_partial_copy_wakes_those_of_the_pages_that_are_done(world: World) -> None:
    mapping, uffd = world.registered("anon", 3)
    uffd.zeropage(mapping.address + PAGE, PAGE)
    first = world.task().read(mapping.address, PAGE)
    last = world.task().read(mapping.address + 2 * PAGE, PAGE)
    world.settle()

    with pytest.raises(TryAgain, match="after 4096 bytes"):
        uffd.copy(mapping.address, pages(0, 3), 3 * PAGE)

    assert first.result().data == pages(0, 1)
    assert last.state is State.BLOCKED
    uffd.copy(mapping.address + 2 * PAGE, pages(2, 1), PAGE)
    last.result()


def test_a_fault_that_is_resolved_before_it_is_read_is_not_read(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touch = world.task().read(mapping.address, 1)
    world.settle()

    uffd.zeropage(mapping.address, PAGE)
    touch.result()

    assert list(uffd.read()) == []


def test_messages_come_in_order_and_no_more_than_asked(world: World) -> None:
    mapping, uffd = world.registered("anon", 3)
    touches = []
    for at in (2, 0, 1):
        touches.append(world.task().read(mapping.address + at * PAGE, 1))
        world.settle()

    first, rest = uffd.read(2), uffd.read(2)

    assert [*first, *rest] == [PageFault(mapping.address + at * PAGE, 0) for at in (2, 0, 1)]
    uffd.zeropage(mapping.address, 3 * PAGE)
    for touch in touches:
        touch.result()


def test_closing_the_last_handle_gives_zeros_to_those_who_wait(world: World) -> None:
    mapping, uffd = world.registered("anon")
    touch = world.task().read(mapping.address, PAGE)
    world.settle()
    other = os.dup(uffd.fileno())

    uffd.close()
    assert touch.state is State.BLOCKED  # the other handle still holds the context
    os.close(other)

    assert touch.result().data == bytes(PAGE)


def test_system_calls_on_missing_pages_wait_like_any_touch(world: World) -> None:
    mapping, uffd = world.registered("anon", 4)
    calls = [
        lambda: write_from(mapping.address, 8),
        lambda: read_into(mapping.address + PAGE, b"12345678"),
        lambda: peek(os.getpid(), mapping.address + 2 * PAGE, 8),
        lambda: _populate(mapping.address + 3 * PAGE),
    ]
    waiting = [world.task().call(call) for call in calls]
    world.settle()

    assert [pending.waits_for for pending in waiting] == ["fault"] * 4
    assert {(type(event), getattr(event, "address", 0)) for event in uffd.read()} == {
        (PageFault, mapping.address + at * PAGE) for at in range(4)
    }
    uffd.copy(mapping.address, pages(0, 4), 4 * PAGE)
    assert [pending.result().errno for pending in waiting] == [0] * 4


def _populate(address: int) -> Outcome:
    libc.madvise(address, PAGE, mman.MADV_POPULATE_READ)
    return Outcome()


def test_user_mode_only_lets_system_calls_fail_and_touches_wait(world: World) -> None:
    mapping, uffd = world.map("anon"), world.userfaultfd(user_mode_only=True)
    uffd.register(mapping.address, PAGE, Mode.MISSING)
    task = world.task()

    assert task.call(lambda: write_from(mapping.address, 8)).result().errno == 14
    assert list(uffd.read()) == []
    touch = task.read(mapping.address, 1)
    world.settle()

    assert one(uffd.read()).missing
    uffd.zeropage(mapping.address, PAGE)
    touch.result()


def test_the_sigbus_feature_raises_the_signal_and_no_message() -> None:
    assert run("linux.children:touch_with_sigbus_feature") == signal.SIGBUS


def test_the_source_of_a_copy_may_itself_be_missing(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    task = world.task()
    copying = task.call(
        lambda: Outcome(value=uffd.copy(mapping.address, mapping.address + PAGE, PAGE))
    )
    world.settle()

    assert one(uffd.read()).address == mapping.address + PAGE
    uffd.copy(mapping.address + PAGE, pages(6, 1), PAGE)

    assert copying.result().value == PAGE
    assert task.read(mapping.address, PAGE).result().data == pages(6, 1)
