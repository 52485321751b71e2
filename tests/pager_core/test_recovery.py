"""What a successor rebuilds from the records of a killed worker."""

from __future__ import annotations

import errno

import pytest

from pager_core.simjudge import calm, finale
from pager_core.simparts import ANON, HUGETLB, SHMEM, SHMEM_PRIVATE, ZEROS, Kind, source
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core import recovery
from userfault.pager.core.actions import CONTINUE, COPY, POISON, Fill, Finish, Wake, WakeAll
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.recorded import ContextRecord, FillRecord, Snapshot
from userfault.pager.core.segment import Segment
from userfault.pager.core.states import (
    CACHED,
    FILLING,
    MISSING,
    POISONED,
    PRESENT,
    REMOVED,
    Pages,
)

START = 1 << 20
COUNT = 8
WHOLE = Segment(START, START + COUNT * PAGE, 0)
PLAN = Plan(START, PAGE, Policy(background=False, window_bytes=PAGE), shared=True)
LAZY = Config(background=False, window=1)


def rebuilt(*records: ContextRecord, states: bytes = bytes(COUNT)) -> list[MappingCore]:
    def pages_of(_: ContextRecord) -> Pages:
        return Pages(bytearray(states), len(states))

    return list(recovery.rebuild(records, lambda _: PLAN, pages_of).values())


def fills(core: MappingCore) -> list[Fill]:
    return [action for action in core.out if isinstance(action, Fill)]


def kept(core: MappingCore) -> bytes:
    return bytes(core.pages.states[0 : core.pages.count])


@pytest.mark.parametrize("old", [MISSING, FILLING, CACHED])
def test_pages_that_the_kernel_filled_are_present(old: int) -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (WHOLE,)), states=bytes([old]) * COUNT)

    recovery.settle(core, FillRecord(0, COPY, page=2, count=4, done=3 * PAGE))

    assert kept(core) == bytes([old] * 2 + [PRESENT] * 3 + [old] * 3)
    assert core.pages.unsettled == COUNT - 3


def test_pages_that_the_kernel_poisoned_are_poisoned() -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (WHOLE,)), states=bytes([FILLING]) * COUNT)

    recovery.settle(core, FillRecord(0, POISON, page=0, count=1, done=PAGE))

    assert kept(core)[0] == POISONED


@pytest.mark.parametrize("state", [PRESENT, REMOVED, POISONED])
def test_a_fill_that_was_recorded_settles_nothing_the_second_time(state: int) -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (WHOLE,)), states=bytes([state]) * COUNT)

    recovery.settle(core, FillRecord(0, CONTINUE, page=0, count=8, done=8 * PAGE))

    assert kept(core) == bytes([state]) * COUNT


@pytest.mark.parametrize(("page", "done"), [(0, 0), (0, -11), (-1, PAGE)])
def test_a_fill_that_made_no_page_of_ours_settles_nothing(page: int, done: int) -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (WHOLE,)), states=bytes([FILLING]) * COUNT)

    recovery.settle(core, FillRecord(0, COPY, page, count=1, done=done))

    assert kept(core) == bytes([FILLING]) * COUNT


def test_a_record_rebuilds_the_core_it_was_made_of() -> None:
    core = MappingCore(PLAN, Pages(bytearray(COUNT), COUNT))
    core.complete()
    core.give_up("asked to", "")
    core.remap(START, START * 2, PAGE)
    written = recovery.record(core, 3, 5)

    (again,) = rebuilt(written, states=kept(core))

    assert recovery.record(again, 3, 5) == written
    again.fault(START * 2, 0)  # FILLING: nothing to do, and not at the old place
    again.fault(START, 0)
    assert again.counters.unowned == 1


def test_contexts_with_the_same_states_share_them_again() -> None:
    first, second, other = rebuilt(
        ContextRecord(0, 0, (WHOLE,)), ContextRecord(1, 0, (WHOLE,)), ContextRecord(2, 2, (WHOLE,))
    )
    assert first.pages is second.pages
    assert first.pages is not other.pages

    first.unmap(START, START + PAGE)
    assert kept(first)[0] == MISSING  # the second shows it
    second.unmap(START, START + PAGE)
    assert kept(first)[0] == REMOVED
    assert kept(other)[0] == MISSING


def test_only_events_that_the_snapshot_of_this_batch_lacks_are_applied() -> None:
    snapshot = Snapshot(batch=7, applied=2, contexts=())

    assert recovery.unapplied(snapshot, 7, "abc") == [(2, "c")]
    assert recovery.unapplied(snapshot, 8, "abc") == [(0, "a"), (1, "b"), (2, "c")]
    assert recovery.unapplied(snapshot, 8, "") == []


def test_what_was_filling_is_the_sources_again_and_everybody_is_woken() -> None:
    cores = rebuilt(
        ContextRecord(0, 0, (WHOLE,)),
        ContextRecord(1, 0, ()),
        states=bytes([FILLING, PRESENT] * 4),
    )

    recovery.resume(cores)

    assert kept(cores[0]) == bytes([MISSING, PRESENT] * 4)
    assert [list(core.out) for core in cores] == [[WakeAll()], [WakeAll()]]


def test_a_finish_that_was_not_written_down_is_said() -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (WHOLE,)), states=bytes([PRESENT]) * COUNT)

    recovery.resume([core])

    assert list(core.out) == [WakeAll(), Finish(((START, COUNT * PAGE),))]


def test_a_finish_that_was_written_down_is_not_repeated() -> None:
    (core,) = rebuilt(ContextRecord(0, 0, (), finished=True), states=bytes([PRESENT]) * COUNT)

    recovery.resume([core])

    assert list(core.out) == [WakeAll()]


def test_giving_up_goes_on_and_complete_after_it_is_not_forgotten() -> None:
    gave_up = ContextRecord(0, 0, (WHOLE,), background=True, given_up="asked to")
    (core,) = rebuilt(gave_up, states=bytes([FILLING, MISSING] + [PRESENT] * 6))

    recovery.resume([core])

    assert [fill.kind for fill in fills(core)] == [POISON]
    assert core.planner.background


def test_after_giving_up_no_page_comes_from_the_source() -> None:
    """mremap abandons the fill that was to poison the page: a touch asks for it again."""
    core = MappingCore(PLAN, Pages(bytearray(COUNT), COUNT))
    core.give_up("asked to", "")
    core.failed(fills(core)[0], errno.EAGAIN, 0, 0.0)
    core.remap(START, START * 2, COUNT * PAGE)
    core.out.clear()

    core.fault(START * 2, 0)

    assert [fill.kind for fill in fills(core)] == [POISON]


def test_a_page_that_is_not_at_its_place_any_more_is_filled_through_another_context() -> None:
    """A place found to be unmapped is not recorded, so a successor may try it again."""
    first, second = rebuilt(ContextRecord(0, 0, (WHOLE,)), ContextRecord(1, 0, (WHOLE,)))
    first.fault(START, 0)
    (fill,) = fills(first)
    second.fault(START, 0)  # waits for the same page

    first.failed(fill, errno.ENOENT, 0, 0.0)
    first.failed(fills(first)[0], errno.ENOENT, 0, 0.0)

    assert kept(first)[0] == MISSING
    assert Wake(START, PAGE) in second.out


# --- on the simulated kernel ---------------------------------------------------------------------


def killed_after_the_fill(kind: Kind) -> World:
    """The page 0 is filled, and the worker killed before it could record it."""
    world = World(LAZY._replace(kind=kind))
    world.store.fuse.filled = 1
    world.kernel.touch(world.threads("idle")[0], world.kernel.start)
    while world.successor is None:
        assert world.step()
    assert world.store.states[0][0] == FILLING
    return world


@pytest.mark.parametrize("kind", [ANON, SHMEM, SHMEM_PRIVATE, HUGETLB], ids=lambda kind: kind.name)
def test_a_fill_that_nobody_recorded_is_not_made_again(kind: Kind) -> None:
    world = killed_after_the_fill(kind)

    finale(world)

    assert world.store.states[0][0] == PRESENT


def test_a_hole_punched_after_the_worker_was_killed_reads_zero() -> None:
    world = killed_after_the_fill(SHMEM)
    thread = world.threads("woken")[0]
    world.kernel.run(thread)
    assert thread.last == source(0)

    world.kernel.calls.punch(0)
    world.kernel.touch(thread, world.kernel.start)
    calm(world)

    assert thread.last == ZEROS


def test_pages_dropped_by_an_event_that_died_with_its_reader_read_zero() -> None:
    world = World(LAZY)
    call = world.kernel.calls.dontneed(world.kernel.mms[0], world.kernel.start, 1)
    assert call
    assert world.step()  # read, not applied
    world.die()
    world.kernel.calls.resume(call)
    world.kernel.calls.resume(call)  # the pages have gone
    thread = world.threads("idle")[0]

    world.kernel.touch(thread, world.kernel.start)
    calm(world)

    assert thread.last == ZEROS


def test_a_thread_that_waits_in_memory_that_grew_is_woken_too() -> None:
    world = World(LAZY)
    main = world.kernel.mms[0]
    world.kernel.calls.grow(main, 1)
    thread = world.threads("idle")[0]
    world.kernel.touch(thread, max(main.slots))
    assert world.step()  # the fault is read
    world.die()

    calm(world)

    assert thread.last == ZEROS
