"""What the core decides: who waits, what is repeated, what is given up, and when it is finished."""

from __future__ import annotations

import errno

import pytest

from pager_core.simkernel import ANON, HUGETLB, HUGETLB_PRIVATE, KINDS, SHMEM, ZEROS, Kind, source
from pager_core.simworld import PAGE, Config, World
from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Finish,
    Found,
    Inspect,
    Report,
    Wake,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.planner import WindowPlanner
from userfault.pager.core.policy import Policy
from userfault.pager.core.refusals import MEMORY_RETRIES
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
LAZY = Config(background=False, window=1)


def core_of(count: int = 8, **changes: object) -> MappingCore:
    """A core without a kernel, whose actions the test performs."""
    policy = Policy(background=False, retries=1, window_bytes=PAGE, fault_deadline_s=None)
    plan = Plan(START, PAGE, policy, **changes)  # type: ignore[arg-type]
    return MappingCore(plan, Pages(bytearray(count), count))


def fault(core: MappingCore, page: int, flags: int = 0) -> None:
    core.fault(START + page * PAGE, flags)


def fill_of(core: MappingCore) -> Fill:
    action = core.out.popleft()
    assert isinstance(action, Fill)
    return action


def touch(world: World, page: int, thread: int = 0, *, process: int = 0) -> None:
    mm = world.kernel.mms[process]
    world.kernel.touch(mm.threads[thread], world.kernel.start + page)


def seen(world: World, thread: int = 0, *, process: int = 0) -> str:
    held = world.kernel.mms[process].threads[thread]
    assert held.state == "idle"
    return held.last


def steps(world: World, count: int) -> None:
    for _ in range(count):
        world.step()


# --- who waits -----------------------------------------------------------------------------------


def test_threads_on_one_page_in_one_batch_cost_one_fill() -> None:
    world = World(LAZY)
    for thread in range(3):
        touch(world, 2, thread)
    world.calm()

    counters = world.contexts[0].core.counters
    assert (counters.faults, counters.copied, counters.duplicates) == (3, 1, 2)
    assert [seen(world, thread) for thread in range(3)] == [source(2)] * 3


def test_a_fault_on_a_page_that_is_being_filled_needs_no_action() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 2)
    steps(world, 3)
    assert len(world.flights) == 1

    touch(world, 2, 1)
    steps(world, 2)
    assert not world.contexts[0].core.out

    world.answer(0)
    world.calm()
    assert seen(world, 0) == seen(world, 1) == source(2)
    assert world.contexts[0].core.counters.fetches == 1


def test_a_fetch_that_a_thread_comes_to_wait_for_overtakes_the_others() -> None:
    core = core_of(source_fetches=True)
    core.want(0, 1)
    for page in range(4):
        fault(core, page)  # four fetches may be under way
    fault(core, 4)
    fault(core, 5)
    assert [action.page for action in core.out if isinstance(action, Fetch)] == [0, 1, 2, 3]

    fault(core, 4)  # a second thread: it is the next
    first = core.out[0]
    assert isinstance(first, Fetch)
    core.fetched(first, memoryview(bytes(PAGE)))
    fetches = [action.page for action in core.out if isinstance(action, Fetch)]
    assert fetches[-1] == 4


def test_background_leaves_a_place_for_a_fetch_that_a_thread_waits_for() -> None:
    world = World(Config(origin="function", background=True, fetches=2, window=1))
    steps(world, 2)
    assert len(world.flights) == 1
    assert not world.idle()

    touch(world, 7)
    steps(world, 3)
    assert [fetch.page for _, fetch in world.flights] == [0, 7]


def begun(core: MappingCore) -> list[Fetch]:
    """The reads that were asked for; nothing else is left to do."""
    found = [action for action in core.out if isinstance(action, Fetch)]
    core.out.clear()
    return found


def prefetching(count: int) -> tuple[MappingCore, list[Fetch]]:
    """A core that was asked for `count` pages in advance, one by one, and the reads begun."""
    core = core_of(count + 2, source_fetches=True)
    found = []
    for page in range(count):
        core.want(page, 1)
        while core.idle_work():
            found += begun(core)
    return core, found


def test_prefetch_leaves_a_place_for_a_fetch_that_a_thread_waits_for() -> None:
    core, reads = prefetching(6)
    assert [fetch.page for fetch in reads] == [0, 1, 2]
    fault(core, 7)
    assert [(fetch.page, fetch.demand) for fetch in begun(core)] == [(7, True)]


def test_a_fault_goes_before_prefetches_that_have_failed() -> None:
    core, reads = prefetching(6)
    for fetch in reads:
        core.fetch_failed(fetch, "it failed", 0.0)
    reads = begun(core)
    assert [(fetch.page, fetch.demand) for fetch in reads] == [(3, False), (4, False), (5, False)]
    core.tick(100.0)  # they are tried again, behind those
    assert not begun(core)
    fault(core, 7)
    assert [fetch.page for fetch in begun(core)] == [7]
    for fetch in reads:
        core.fetched(fetch, memoryview(bytes(PAGE)))
    assert [(fetch.page, fetch.demand) for fetch in begun(core)] == [(0, False), (1, False)]


@pytest.mark.parametrize("when", ["reads", "pauses", "queues"])
def test_a_prefetch_that_failed_and_is_waited_for_goes_before_the_others(when: str) -> None:
    core, reads = prefetching(6)
    if when == "reads":
        fault(core, 0)
    core.fetch_failed(reads[0], "it failed", 0.0)
    begun(core)
    if when == "pauses":
        fault(core, 0)
    core.tick(100.0)
    again = begun(core)
    if when == "queues":
        assert not again
        fault(core, 0)
        again = begun(core)
    assert [(fetch.page, fetch.demand) for fetch in again] == [(0, True)]


def test_threads_that_wait_for_a_place_have_it_in_the_order_in_which_they_came() -> None:
    core = core_of(source_fetches=True)
    for page in range(7):
        fault(core, page)
    reads = begun(core)
    assert [fetch.page for fetch in reads] == [0, 1, 2, 3]
    for fetch in reads[:3]:
        core.fetched(fetch, memoryview(bytes(PAGE)))
    assert [fetch.page for fetch in begun(core)] == [4, 5, 6]


def test_a_signal_during_the_wait_loses_nothing() -> None:
    world = World(LAZY)
    touch(world, 1)
    world.step()
    world.kernel.signal(world.kernel.mms[0].threads[0])
    world.calm()
    assert seen(world) == source(1)


# --- what the kernel refuses ---------------------------------------------------------------------


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
    world.kernel.alias(3)
    world.calm()

    assert seen(world).startswith("alias")
    assert world.contexts[0].core.counters.exists == 1
    world.finale()


def test_a_minor_fault_on_a_page_never_filled_maps_what_the_client_wrote() -> None:
    world = World(LAZY._replace(kind=SHMEM))
    world.kernel.alias(3)
    touch(world, 3)
    world.calm()

    assert seen(world).startswith("alias")
    assert world.contexts[0].core.counters.foreign == 1


def test_private_memory_ignores_what_is_in_the_file_behind_it() -> None:
    """After a fork another process may have put zeros into the file; ours is the source's."""
    core = core_of()
    fault(core, 3, flags=4)
    assert fill_of(core).kind == COPY


def test_a_fill_across_two_mappings_is_halved_until_it_fits() -> None:
    world = World(Config(pages=8, background=True, chunk=8))
    world.kernel.split(world.kernel.mms[0], world.kernel.start + 3)
    world.calm()
    world.finale()
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


def test_want_of_memory_is_waited_for() -> None:
    world = World(LAZY)
    world.kernel.poor = 3
    touch(world, 0)
    world.calm()

    assert seen(world) == source(0)
    assert world.now >= 0.01 + 0.02 + 0.04  # pauses that double


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lasting_want_of_memory_gives_the_page_up(kind: Kind) -> None:
    world = World(LAZY._replace(kind=kind))
    world.kernel.poor = MEMORY_RETRIES + 1
    touch(world, 0)
    world.calm()

    assert seen(world) == "SIGBUS"
    world.finale()


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
    world.kernel.poor = 2
    touch(world, 0)
    world.calm()
    assert seen(world) == source(0)
    world.finale()


def test_eexist_for_a_huge_page_that_the_client_wrote_is_believed() -> None:
    world = World(LAZY._replace(kind=HUGETLB, background=True))
    world.kernel.alias(0)
    world.calm()
    touch(world, 0)
    world.calm()
    assert seen(world).startswith("alias")
    world.finale()


def test_a_shared_huge_page_that_is_mapped_was_there() -> None:
    core = core_of(exists_is_ambiguous=True, shared=True)
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    assert core.out.popleft() == Inspect(0, START)

    core.inspected(0, Found.UNSEEN, 0.0)
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
    core.out.clear()
    core.inspected(0, found, 0.0)
    assert core.pages.states[0] == PRESENT
    assert core.out.popleft() == Wake(START, PAGE)


def test_a_private_page_with_other_bytes_ends_the_client() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    core.out.clear()
    core.inspected(0, Found.OTHER, 0.0)
    action = core.out.popleft()
    assert isinstance(action, EndClient)
    assert "the pager had not filled" in action.message


def test_a_private_page_that_nobody_can_look_at_is_given_up_and_its_waiters_run_on() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.EEXIST, 0, 0.0)
    core.out.clear()
    core.inspected(0, Found.UNSEEN, 0.0)
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
    core.remove(START, START + PAGE)
    core.inspected(0, Found.NOTHING, 0.0)
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


# --- the source fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["file", "function"])
def test_a_page_that_cannot_be_read_is_retried_then_poisoned(origin: str) -> None:
    world = World(LAZY._replace(origin=origin, bad=frozenset({2}), retries=2))
    touch(world, 2)
    world.calm()

    assert seen(world) == "SIGBUS"
    assert world.contexts[0].core.counters.source_failures == 3
    world.finale()


@pytest.mark.parametrize("origin", ["file", "function"])
def test_a_bad_page_spares_its_neighbours(origin: str) -> None:
    world = World(Config(origin=origin, background=True, chunk=8, bad=frozenset({2})))
    world.calm()
    held = world.contexts[0].core.pages
    assert held.runs(0, 8, POISONED) == [(2, 1)]
    assert held.runs(0, 8, PRESENT) == [(0, 2), (3, 5)]
    world.finale()


def test_a_read_that_works_the_second_time_leaves_no_trace() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 2)
    steps(world, 3)
    world.answer(0, works=False)
    world.calm()
    assert seen(world) == source(2)


def test_a_read_past_its_deadline_is_abandoned_and_its_late_answer_ignored() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    fetch = core.out.popleft()
    assert isinstance(fetch, Fetch)
    core.started(fetch, 100.0)
    assert core.next_time() == 100.0 + core.plan.policy.deadline_s

    core.tick(100.0 + core.plan.policy.deadline_s)
    assert core.out.popleft() == Abandon(fetch.number)
    assert fetch.abandoned
    assert core.counters.deadlines == 1

    core.fetched(fetch, memoryview(bytes(PAGE)))
    assert not core.out
    core.tick(1000.0)  # the pause is over: it is read again
    again = core.out.popleft()
    assert isinstance(again, Fetch)
    assert (again.page, again.number) != (fetch.page, fetch.number)


@pytest.mark.parametrize("how", [{"has_poison": False}, {"on_failure": "kill"}], ids=str)
def test_where_poison_is_not_to_be_had_the_client_is_ended(how: dict[str, object]) -> None:
    world = World(LAZY._replace(bad=frozenset({2}), **how))  # type: ignore[arg-type]
    touch(world, 2)
    world.calm()
    assert world.over


def test_giving_up_poisons_what_is_not_filled_and_keeps_what_is() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 1)
    world.calm()
    touch(world, 2)
    steps(world, 3)  # its bytes are under way
    for page in (0, *range(2, 8)):
        world.kernel.mms[0].truths[page].given_up = True
    world.contexts[0].core.give_up("enough", "")
    world.answer(0)
    world.calm()

    assert seen(world) == "SIGBUS"
    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(1, 1)]
    assert world.contexts[0].finishes == 1
    world.finale()


# --- forks ---------------------------------------------------------------------------------------


def forked(world: World) -> None:
    world.kernel.fork(world.kernel.mms[0])
    world.calm()


def test_a_private_child_gets_its_own_copy_of_what_is_missing() -> None:
    world = World(LAZY)
    forked(world)
    touch(world, 1)
    world.calm()
    assert world.contexts[1].core.pages.states[1] == MISSING
    world.kernel.touch(world.kernel.mms[0].threads[0], world.kernel.start + 2, write=True)
    world.calm()

    for page in (1, 2):
        touch(world, page, process=1)
        world.calm()
        assert seen(world, process=1) == source(page)
    world.finale()


def test_a_private_child_does_not_wait_for_bytes_on_their_way_to_its_parent() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 1)
    steps(world, 3)
    world.kernel.fork(world.kernel.mms[0])
    steps(world, 2)
    assert world.contexts[0].core.pages.states[1] == FILLING
    assert world.contexts[1].core.pages.states[1] == MISSING
    world.finale()


def test_a_child_of_shared_memory_is_woken_by_its_parents_fill() -> None:
    world = World(LAZY._replace(kind=SHMEM, origin="function"))
    forked(world)
    touch(world, 1)
    steps(world, 3)
    touch(world, 1, process=1)
    steps(world, 2)
    assert world.contexts[1].core.counters.faults == 1

    world.answer(0)
    world.calm()
    assert seen(world) == seen(world, process=1) == source(1)
    assert world.contexts[0].core.counters.fetches == 1


def test_who_waits_for_bytes_that_a_dead_sibling_asked_for_is_served() -> None:
    world = World(LAZY._replace(kind=SHMEM, origin="function"))
    forked(world)
    touch(world, 1)
    steps(world, 3)
    touch(world, 1, process=1)
    steps(world, 2)
    world.kernel.exit(world.kernel.mms[0])
    world.reap()
    world.calm()
    assert seen(world, process=1) == source(1)


def test_memory_that_one_process_unmaps_stays_the_sources_for_another() -> None:
    world = World(LAZY._replace(kind=SHMEM))
    forked(world)
    world.kernel.munmap(world.kernel.mms[0], world.kernel.start, 8)
    world.calm()
    assert world.contexts[0].core.pages.states[3] == MISSING

    touch(world, 3, process=1)
    world.calm()
    assert seen(world, process=1) == source(3)


def test_background_fill_reaches_pages_that_only_a_child_maps() -> None:
    world = World(Config(kind=SHMEM, background=True))
    world.kernel.fork(world.kernel.mms[0])
    steps(world, 2)
    world.kernel.munmap(world.kernel.mms[0], world.kernel.start, 4)
    world.calm()

    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(0, 8)]
    assert [context.finishes for context in world.contexts] == [1, 1]


def test_a_child_forked_after_the_finish_still_gets_sigbus_on_a_poisoned_page() -> None:
    """Markers of shared memory are not inherited: the child's faults are answered, not let go."""
    world = World(Config(kind=SHMEM, background=True, bad=frozenset({2})))
    world.calm()
    assert world.contexts[0].finishes == 1

    forked(world)
    touch(world, 2, process=1)
    world.calm()
    assert seen(world, process=1) == "SIGBUS"
    touch(world, 3, process=1)
    world.calm()
    assert seen(world, process=1) == source(3)


# --- background and finish -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_background_fills_everything_and_finishes_once(kind: Kind) -> None:
    world = World(Config(kind=kind, background=True))
    world.calm()
    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(0, 8)]
    assert world.contexts[0].core.counters.background == 8
    assert world.contexts[0].finishes == 1
    world.finale()


def test_what_is_wanted_comes_before_the_background() -> None:
    core = core_of()
    core.planner.background = True
    core.want(5, 2)
    core.idle_work()
    fill = fill_of(core)
    assert (fill.page, fill.count, fill.demand) == (5, 2, False)


def test_prepared_memory_is_mapped_not_copied() -> None:
    world = World(Config(kind=SHMEM, prepared=True, background=True))
    world.calm()
    counters = world.contexts[0].core.counters
    assert (counters.continued, counters.copied) == (8, 0)


def test_touches_alone_finish_too() -> None:
    world = World(LAZY)
    for page in range(8):
        touch(world, page)
        world.calm()
    assert world.contexts[0].finishes == 1


def test_complete_fills_the_rest_where_nothing_was_filled_in_the_background() -> None:
    world = World(LAZY)
    world.calm()
    assert [context.finishes for context in world.contexts] == [0]
    world.contexts[0].core.complete()
    world.calm()
    assert [context.finishes for context in world.contexts] == [1]


def test_the_finish_names_what_is_still_mapped_and_where() -> None:
    core = core_of()
    core.unmap(START, START + 2 * PAGE)
    core.remap(START + 4 * PAGE, START + 100 * PAGE, 2 * PAGE)
    core.remove(0, 1 << 40)

    finish = core.out[-1]
    assert isinstance(finish, Finish)
    assert finish.segments == (
        (START + 2 * PAGE, 2 * PAGE),
        (START + 6 * PAGE, 2 * PAGE),
        (START + 100 * PAGE, 2 * PAGE),
    )


def test_the_end_of_the_process_ends_everything() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.ESRCH, 0, 0.0)
    assert list(core.out) == [Finish((), owner_gone=True)]
    assert core.finished
    assert not core.eager


def test_a_zero_source_is_never_read() -> None:
    world = World(Config(kind=ANON, origin="zero", background=True))
    touch(world, 0)
    world.calm()
    counters = world.contexts[0].core.counters
    assert (counters.zeroed, counters.copied) == (8, 0)
    assert seen(world) == ZEROS


def test_cached_pages_are_mapped_in_windows_that_grow() -> None:
    plan = Plan(START, PAGE, Policy(background=False), shared=True)
    core = MappingCore(plan, Pages(bytearray([CACHED]) * 8, 8))
    assert isinstance(core.planner, WindowPlanner)
    core.planner._window.limit = 8
    counts = []
    for page in (0, 1, 3):
        core.fault(START + page * PAGE, 4)
        fill = fill_of(core)
        assert fill.kind == CONTINUE
        counts.append(fill.count)
        core.done(fill)
    assert counts == [1, 2, 4]


def test_a_child_of_a_process_that_unmapped_everything_maps_nothing() -> None:
    core = core_of(shared=True)
    core.unmap(START, START + 8 * PAGE)
    assert len(core.fork().segments) == 0
