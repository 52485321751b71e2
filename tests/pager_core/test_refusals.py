"""What a refusal of the kernel means: to be repeated, looked into, waited out, or given up."""

from __future__ import annotations

import errno

import pytest

from pager_core.hands import LAZY, START, core_of, fault, fill_of, seen, steps, touch
from pager_core.simjudge import calm, finale
from pager_core.simparts import HUGETLB, HUGETLB_PRIVATE, KINDS, SHMEM, Kind, source
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import (
    COPY,
    POISON,
    EndClient,
    Fetch,
    Fill,
    Found,
    Inspect,
    Report,
    Wake,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.poverty import MEMORY_RETRIES
from userfault.pager.core.states import FILLING, PRESENT, REMOVED


def test_while_fills_meet_eagain_nothing_is_filled_in_the_background() -> None:
    core = core_of()
    core.planner.background = True
    fault(core, 2)
    core.failed(fill_of(core), errno.EAGAIN, 0, 0.0)

    assert not core.idle_work()
    core.retry()
    assert fill_of(core).page == 2


def test_progress_before_an_error_is_kept_and_the_rest_is_tried_at_once() -> None:
    core = core_of()
    core.planner.background = True
    core.idle_work()
    fill = fill_of(core)
    assert fill.count == 8

    core.failed(fill, errno.EAGAIN, 3 * PAGE, 0.0)

    rest = fill_of(core)
    assert (rest.page, rest.count, rest.address) == (3, 5, START + 3 * PAGE)
    assert core.pages.runs(0, 8, PRESENT) == [(0, 3)]
    assert core.pages.runs(0, 8, FILLING) == [(3, 5)]
    assert core.counters.partial == 1


def test_the_rest_of_fetched_bytes_keeps_its_place_in_them() -> None:
    core = core_of(source_fetches=True)
    core.want(2, 4)
    core.idle_work()
    fetch = core.out.popleft()
    assert isinstance(fetch, Fetch)
    core.fetched(fetch, memoryview(bytes(4 * PAGE)))
    core.failed(fill_of(core), errno.EAGAIN, PAGE, 0.0)

    rest = fill_of(core)
    assert (rest.page, rest.data_page) == (3, 2)


def test_a_page_that_the_client_wrote_first_is_kept() -> None:
    world = World(LAZY._replace(kind=SHMEM))
    touch(world, 3)
    steps(world, 2)  # decides: fill from the source
    world.kernel.calls.alias(3)
    calm(world)

    assert seen(world).startswith("alias")
    assert world.contexts[0].core.counters.exists == 1
    finale(world)


def test_a_minor_fault_on_a_page_never_filled_maps_what_the_client_wrote() -> None:
    world = World(LAZY._replace(kind=SHMEM))
    world.kernel.calls.alias(3)
    touch(world, 3)
    calm(world)

    assert seen(world).startswith("alias")
    assert world.contexts[0].core.counters.foreign == 1


def test_private_memory_ignores_what_is_in_the_file_behind_it() -> None:
    """After a fork another process may have put zeros into the file; ours is the source's."""
    core = core_of()
    fault(core, 3, flags=4)
    assert fill_of(core).kind == COPY


def test_a_fill_across_two_mappings_is_halved_until_it_fits() -> None:
    world = World(Config(pages=8, background=True, chunk=8))
    world.kernel.memory.split(world.kernel.mms[0], world.kernel.start + 3)
    calm(world)
    finale(world)
    assert world.contexts[0].core.counters.copied == 8


def test_a_page_that_is_mapped_no_more_is_let_go() -> None:
    """Unregistered by the client itself: no event tells."""
    core = core_of()
    fault(core, 3)
    core.failed(fill_of(core), errno.ENOENT, 0, 0.0)
    core.failed(fill_of(core), errno.ENOENT, 0, 0.0)  # no event of a moment ago

    assert core.out.popleft() == Wake(START + 3 * PAGE, PAGE)
    assert core.pages.states[3] == REMOVED
    assert core.segments.page_of(START + 3 * PAGE) == -1


def test_a_range_that_is_yet_to_be_registered_is_filled_once_it_is() -> None:
    core = core_of(restored=True, early=True)
    fault(core, 3)
    for _ in range(3):
        core.failed(fill_of(core), errno.ENOENT, 0, 0.0)
        assert not core.out
        core.retry()

    core.registered()  # now ENOENT means that the page has gone
    for _ in range(2):
        core.failed(fill_of(core), errno.ENOENT, 0, 0.0)
    assert core.pages.states[3] == REMOVED


def test_what_a_restored_process_was_given_by_others_is_its_own() -> None:
    core = core_of(restored=True)
    fault(core, 3)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)

    assert list(core.out) == [Wake(START + 3 * PAGE, PAGE)]
    assert core.pages.states[3] == PRESENT


def test_want_of_memory_is_waited_for() -> None:
    world = World(LAZY)
    world.kernel.uffd.poor = 3
    touch(world, 0)
    calm(world)

    assert seen(world) == source(0)
    assert world.state.now >= 0.01 + 0.02 + 0.04  # pauses that double


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lasting_want_of_memory_gives_the_page_up(kind: Kind) -> None:
    world = World(LAZY._replace(kind=kind))
    world.kernel.uffd.poor = MEMORY_RETRIES + 1
    touch(world, 0)
    calm(world)

    assert seen(world) == "SIGBUS"
    finale(world)


def test_a_zero_page_that_cannot_be_had_is_asked_for_until_it_can() -> None:
    core = core_of()
    core.remove(START, START + PAGE)
    fault(core, 0)
    core.failed(fill_of(core), errno.ENOMEM, 0, 0.0)
    core.retry()
    assert fill_of(core).page == 0


@pytest.mark.parametrize("kind", [HUGETLB, HUGETLB_PRIVATE], ids=lambda kind: kind.name)
def test_eexist_for_want_of_a_huge_page_is_seen_through(kind: Kind) -> None:
    world = World(LAZY._replace(kind=kind))
    world.kernel.uffd.poor = 2
    touch(world, 0)
    calm(world)
    assert seen(world) == source(0)
    finale(world)


def test_eexist_for_a_huge_page_that_the_client_wrote_is_believed() -> None:
    world = World(LAZY._replace(kind=HUGETLB, background=True))
    world.kernel.calls.alias(0)
    calm(world)
    touch(world, 0)
    calm(world)
    assert seen(world).startswith("alias")
    finale(world)


def look_at(core: MappingCore, found: Found) -> None:
    """The look that was asked for finds this, and so does the fill that is made again."""
    look = core.out.popleft()
    assert isinstance(look, Inspect)
    core.inspected(look, found, 0.0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)


def moved_onto(world: World) -> None:
    """No memory for page 4: EEXIST -> page 2 is moved onto it -> what lies there is looked at."""
    kernel = world.kernel
    touch(world, 2, 1)
    calm(world)
    kernel.uffd.poor = 1
    touch(world, 4)
    steps(world, 3)
    assert isinstance(world.contexts[0].core.out[0], Inspect)
    kernel.calls.mremap(kernel.mms[0], kernel.start + 2, 1, new=kernel.start + 4)


def test_a_page_that_was_moved_onto_one_without_memory_is_nobodys_mistake() -> None:
    world = World(LAZY._replace(kind=HUGETLB_PRIVATE))
    moved_onto(world)
    calm(world)
    assert seen(world) == source(2)  # its thread touches what lies there now
    finale(world)


def test_a_page_that_was_moved_onto_one_without_memory_is_not_taken_for_it() -> None:
    """A forked child has both still."""
    world = World(LAZY._replace(kind=HUGETLB))
    kernel = world.kernel
    kernel.calls.fork(kernel.mms[0])
    calm(world)
    moved_onto(world)
    calm(world)

    child = kernel.mms[1].threads[0]
    kernel.touch(child, kernel.start + 4)
    calm(world)
    assert child.last == source(4)
    finale(world)


def test_a_shared_huge_page_that_is_mapped_was_there() -> None:
    core = core_of(exists_is_ambiguous=True, shared=True)
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    assert core.out[0] == Inspect(0, START)

    look_at(core, Found.UNSEEN)
    assert core.pages.states[0] == PRESENT
    assert core.out.popleft() == Wake(START, PAGE)


def test_eexist_alone_makes_no_private_page_present() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    assert core.out.popleft() == Inspect(0, START, compare=True)
    assert core.pages.states[0] == FILLING


@pytest.mark.parametrize("found", [Found.SAME, Found.NOTHING])
def test_a_private_page_with_the_sources_bytes_is_present_and_a_guard_needs_no_page(
    found: Found,
) -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    look_at(core, found)
    assert core.pages.states[0] == PRESENT
    assert core.out.popleft() == Wake(START, PAGE)


def test_a_private_page_with_other_bytes_ends_the_client() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    look_at(core, Found.OTHER)
    action = core.out.popleft()
    assert isinstance(action, EndClient)
    assert "the pager had not filled" in action.message


def test_a_private_page_that_nobody_can_look_at_is_given_up_and_its_waiters_run_on() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    look_at(core, Found.UNSEEN)
    report, poison = core.out
    assert isinstance(report, Report)
    assert isinstance(poison, Fill)
    core.out.clear()
    core.failed(poison, errno.EEXIST, 0, 0.0)
    assert core.out.popleft() == Wake(START, PAGE)
    assert core.pages.states[0] == PRESENT


def test_an_answer_about_a_page_that_was_dropped_meanwhile_is_ignored() -> None:
    core = core_of(exists_is_ambiguous=True)
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    (look,) = core.out
    core.remove(START, START + PAGE)
    assert isinstance(look, Inspect)
    core.inspected(look, Found.NOTHING, 0.0)
    assert core.pages.states[0] == REMOVED
    assert core.next_time() is None


def test_an_errno_that_nobody_expects_gives_the_page_up_and_names_it() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EIO, 0, 0.0)

    report = core.out.popleft()
    assert isinstance(report, Report)
    assert "EIO" in report.cause
    assert fill_of(core).kind == POISON


def test_a_page_that_cannot_even_be_poisoned_ends_the_client() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EIO, 0, 0.0)
    core.out.popleft()
    core.failed(fill_of(core), errno.EIO, 0, 0.0)
    assert isinstance(core.out.popleft(), EndClient)


def test_grown_memory_beyond_the_end_of_its_file_is_left_to_the_kernel() -> None:
    core = core_of()
    fault(core, 20)
    core.failed(fill_of(core), errno.EFAULT, 0, 0.0)
    assert list(core.out) == [Wake(START + 20 * PAGE, PAGE)]
