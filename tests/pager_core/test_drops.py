"""Pages that the client drops: zeros from then on, whatever was under way, and nobody waits."""

from __future__ import annotations

import pytest

from pager_core.simjudge import calm, finale
from pager_core.simparts import ANON, HUGETLB, KINDS, SHMEM, SHMEM_PRIVATE, ZEROS, Kind, source
from pager_core.simstate import Config
from pager_core.simworld import World
from userfault.pager.core.actions import Fill, Found
from userfault.pager.core.states import MISSING, POISONED, PRESENT, REMOVED

LAZY = Config(background=False, window=1)


def lazy(**changes: object) -> World:
    """Eight pages that are filled by touches alone."""
    return World(LAZY._replace(**changes))  # type: ignore[arg-type]


def touch(world: World, page: int, thread: int = 0, *, write: bool = False) -> None:
    world.kernel.touch(world.kernel.mms[0].threads[thread], world.kernel.start + page, write=write)


def seen(world: World, thread: int = 0) -> str:
    """What that thread's last access came to."""
    held = world.kernel.mms[0].threads[thread]
    assert held.state == "idle"
    return held.last


def state(world: World, page: int) -> int:
    return world.contexts[0].core.pages.states[page]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fault_before_a_remove_and_read_before_it_shows_zeros(kind: Kind) -> None:
    """fault read -> REMOVE raised -> fill: EAGAIN -> REMOVE read -> woken -> zeros."""
    world = lazy(kind=kind)
    kernel = world.kernel
    touch(world, 3)
    world.step()  # reads the fault
    world.step()  # decides: fill from the source
    call = kernel.calls.dontneed(kernel.mms[0], kernel.start + 3, 1)
    world.step()  # the fill meets EAGAIN

    core = world.contexts[0].core
    assert [fill.page for fill in core.deferred] == [3]
    assert core.counters.again == 1

    calm(world)
    assert call is not None
    assert seen(world) == ZEROS
    finale(world)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fault_in_one_batch_with_a_remove_shows_zeros(kind: Kind) -> None:
    world = lazy(kind=kind)
    kernel = world.kernel
    touch(world, 3)
    kernel.calls.dontneed(kernel.mms[0], kernel.start + 3, 1)
    world.step()  # one read gives both, the fault first
    world.step()  # applies REMOVE
    assert state(world, 3) == REMOVED

    calm(world)
    assert seen(world) == ZEROS
    assert world.contexts[0].core.counters.copied == 0
    finale(world)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fault_served_before_a_remove_shows_the_source_and_then_zeros(kind: Kind) -> None:
    world = lazy(kind=kind)
    kernel = world.kernel
    touch(world, 3)
    calm(world)
    assert seen(world) == source(3)

    kernel.calls.dontneed(kernel.mms[0], kernel.start + 3, 1)
    calm(world)
    touch(world, 3)
    calm(world)

    # Where a page cache is shared, MADV_DONTNEED leaves the page in it.
    assert seen(world) == (source(3) if kind.shared else ZEROS)
    finale(world)


@pytest.mark.parametrize("kind", [SHMEM, HUGETLB], ids=lambda kind: kind.name)
def test_madv_remove_drops_shared_pages_from_the_file(kind: Kind) -> None:
    world = lazy(kind=kind)
    kernel = world.kernel
    touch(world, 3)
    calm(world)
    kernel.calls.remove(kernel.mms[0], kernel.start + 2, 3)
    calm(world)
    for page in (2, 3, 4):
        touch(world, page)
        calm(world)
        assert seen(world) == ZEROS
    finale(world)


def test_a_write_after_the_drop_is_kept() -> None:
    world = lazy()
    kernel = world.kernel
    kernel.calls.dontneed(kernel.mms[0], kernel.start, 1)
    touch(world, 0, write=True)
    calm(world)
    written = seen(world)
    touch(world, 0, thread=1)
    calm(world)

    assert written.startswith("write")
    assert seen(world, 1) == written
    assert state(world, 0) == PRESENT


def test_fills_work_a_moment_before_the_pages_go() -> None:
    """The gate opens when madvise runs on; what is filled then goes with the rest."""
    world = lazy()
    kernel = world.kernel
    call = kernel.calls.dontneed(kernel.mms[0], kernel.start, 1)
    assert call is not None
    world.step()
    world.step()  # REMOVE is applied
    kernel.calls.resume(call)
    touch(world, 0, write=True)
    for _ in range(3):
        world.step()
    kernel.run(kernel.mms[0].threads[0])
    kernel.calls.resume(call)  # the pages go, and with them what was just written

    touch(world, 0, thread=1)
    calm(world)
    assert seen(world, 1) == ZEROS
    assert world.contexts[0].core.counters.dropped == 2
    finale(world)


@pytest.mark.parametrize("kind", [SHMEM, HUGETLB], ids=lambda kind: kind.name)
def test_a_hole_punched_without_an_event_reads_zeros(kind: Kind) -> None:
    world = lazy(kind=kind)
    touch(world, 5)
    calm(world)
    world.kernel.calls.punch(5)
    touch(world, 5)
    calm(world)

    assert seen(world) == ZEROS
    assert world.contexts[0].core.counters.dropped == 1
    finale(world)


def test_a_hole_punched_into_prepared_memory_reads_zeros() -> None:
    world = lazy(kind=SHMEM, prepared=True)
    world.kernel.calls.punch(5)
    touch(world, 5)
    calm(world)
    assert seen(world) == ZEROS

    touch(world, 6)
    calm(world)
    assert seen(world) == source(6)
    finale(world)


def test_a_page_punched_between_its_minor_fault_and_the_answer_reads_zeros() -> None:
    world = lazy(kind=SHMEM, prepared=True)
    touch(world, 5)
    world.step()
    world.step()  # decides: map the cached page
    world.kernel.calls.punch(5)
    calm(world)

    assert seen(world) == ZEROS
    finale(world)


def test_a_page_that_the_client_wrote_and_punched_itself_reads_zeros() -> None:
    """It was never filled; but its minor fault told that it was the client's."""
    world = lazy(kind=SHMEM)
    world.kernel.calls.alias(5)
    touch(world, 5)
    world.step()
    world.step()
    world.kernel.calls.punch(5)
    calm(world)

    assert seen(world) == ZEROS
    assert state(world, 5) == PRESENT


def test_a_poisoned_page_that_is_dropped_reads_zeros() -> None:
    world = lazy(bad=frozenset({2}))
    touch(world, 2)
    calm(world)
    assert seen(world) == "SIGBUS"
    assert state(world, 2) == POISONED

    world.kernel.calls.dontneed(world.kernel.mms[0], world.kernel.start + 2, 1)
    calm(world)
    touch(world, 2)
    calm(world)
    assert seen(world) == ZEROS
    finale(world)


def test_bytes_that_arrive_for_a_dropped_page_are_not_used() -> None:
    world = lazy(origin="function")
    touch(world, 4)
    for _ in range(3):
        world.step()  # the fetch is under way
    world.kernel.calls.dontneed(world.kernel.mms[0], world.kernel.start + 4, 1)
    world.step()
    world.step()
    world.answer(0)
    calm(world)

    assert seen(world) == ZEROS
    assert world.contexts[0].core.counters.copied == 0
    finale(world)


@pytest.mark.parametrize("kind", [ANON, SHMEM, SHMEM_PRIVATE], ids=lambda kind: kind.name)
def test_who_waits_where_memory_is_unmapped_is_woken(kind: Kind) -> None:
    """Nothing but our wake ends that wait: the kernel does not look at it on munmap."""
    world = lazy(kind=kind, origin="function")
    touch(world, 4)
    for _ in range(3):
        world.step()
    world.kernel.calls.munmap(world.kernel.mms[0], world.kernel.start + 4, 1)
    while world.step():
        pass
    assert world.kernel.mms[0].threads[0].state == "woken"

    calm(world)
    assert seen(world) == "SIGSEGV"
    assert state(world, 4) == REMOVED
    finale(world)


@pytest.mark.parametrize("kind", [ANON, SHMEM], ids=lambda kind: kind.name)
def test_bytes_under_way_follow_a_mapping_that_moves(kind: Kind) -> None:
    world = lazy(kind=kind, origin="function")
    kernel, main = world.kernel, world.kernel.mms[0]
    touch(world, 4)
    for _ in range(3):
        world.step()
    kernel.calls.mremap(main, kernel.start + 4, 2, new=0x900)
    calm(world)
    assert seen(world) == "SIGSEGV"  # it waited at the old place

    assert state(world, 4) == PRESENT
    kernel.touch(main.threads[1], 0x901)
    calm(world)
    assert seen(world, 1) == source(5)
    finale(world)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_page_whose_fill_is_overtaken_by_a_move_shows_the_source_at_the_new_place(
    kind: Kind,
) -> None:
    """fill -> its mapping moved: ENOENT -> again: EAGAIN -> REMAP read -> touched -> the source."""
    world = lazy(kind=kind)
    kernel, main = world.kernel, world.kernel.mms[0]
    touch(world, 4)
    world.step()  # reads the fault
    world.step()  # decides
    kernel.calls.mremap(main, kernel.start + 4, 1, new=0x900)
    world.step()  # the fill, begun before the move

    core = world.contexts[0].core
    assert core.counters.again == 0
    assert [fill.found for fill in core.out if isinstance(fill, Fill)] == [Found.NO_MAPPING]
    world.step()
    assert core.counters.again == 1

    calm(world)
    assert state(world, 4) == MISSING
    kernel.touch(main.threads[1], 0x900)
    calm(world)
    assert seen(world, 1) == source(4)
    finale(world)


def test_what_met_eagain_is_done_anew_at_the_new_place() -> None:
    world = lazy()
    kernel, main = world.kernel, world.kernel.mms[0]
    touch(world, 4)
    world.step()
    world.step()
    kernel.calls.mremap(main, kernel.start + 4, 1, new=0x900)
    world.step()  # ENOENT, for it was overtaken
    world.step()
    assert world.contexts[0].core.deferred
    calm(world)
    assert state(world, 4) == MISSING

    kernel.touch(main.threads[1], 0x900)
    calm(world)
    assert seen(world, 1) == source(4)
    finale(world)


def test_the_place_that_mremap_dontunmap_leaves_reads_zeros() -> None:
    world = lazy()
    kernel, main = world.kernel, world.kernel.mms[0]
    kernel.calls.mremap(main, kernel.start, 2, new=0x900, keep=True)
    touch(world, 0)
    calm(world)
    assert seen(world) == ZEROS

    kernel.touch(main.threads[1], 0x900)
    calm(world)
    assert seen(world, 1) == source(0)
    assert world.contexts[0].core.counters.unowned == 1
    finale(world)


def test_the_old_place_of_prepared_private_memory_shows_the_file() -> None:
    world = lazy(kind=SHMEM_PRIVATE, prepared=True)
    kernel, main = world.kernel, world.kernel.mms[0]
    kernel.calls.mremap(main, kernel.start, 2, new=0x900, keep=True)
    touch(world, 0)
    calm(world)
    assert seen(world) == source(0)


@pytest.mark.parametrize("kind", [ANON, SHMEM, HUGETLB], ids=lambda kind: kind.name)
def test_memory_that_mremap_grew_reads_zeros_also_after_the_finish(kind: Kind) -> None:
    world = World(Config(kind=kind, background=True))
    kernel, main = world.kernel, world.kernel.mms[0]
    kernel.calls.grow(main, 1)
    calm(world)
    assert world.contexts[0].finishes == 1

    kernel.touch(main.threads[0], kernel.start + 8)
    calm(world)
    assert seen(world) == ZEROS


def test_pages_beyond_the_end_of_a_truncated_file_raise_sigbus_and_the_rest_is_filled() -> None:
    world = World(Config(kind=SHMEM, background=True, chunk=5))
    world.kernel.calls.resize(3)
    calm(world)
    assert world.contexts[0].finishes == 1
    for page, expected in ((2, source(2)), (3, "SIGBUS")):
        touch(world, page)
        calm(world)
        assert seen(world) == expected


def test_a_window_of_cached_pages_is_mapped_up_to_the_end_of_a_truncated_file() -> None:
    world = World(Config(kind=SHMEM, prepared=True, background=True, chunk=5))
    world.kernel.calls.punch(0)
    world.kernel.calls.resize(3)
    calm(world)
    touch(world, 2)
    calm(world)
    assert seen(world) == source(2)
    finale(world)


def test_after_the_finish_addresses_mean_nothing_any_more() -> None:
    """A page goes without an event, and memory that stayed registered grows in its place."""
    world = lazy(bad=frozenset({1}))
    kernel, main = world.kernel, world.kernel.mms[0]
    kernel.calls.mremap(main, kernel.start, 1, new=0x900, keep=True)
    world.contexts[0].core.complete()
    calm(world)
    assert world.contexts[0].finishes == 1

    kernel.calls.munmap(main, kernel.start + 1, 7)
    kernel.calls.munmap(main, 0x900, 1)
    kernel.calls.grow(main, 1)
    touch(world, 1)
    calm(world)
    assert seen(world) == ZEROS
