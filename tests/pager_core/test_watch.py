"""The watchdog: which faults are told of, when, waiting for what, and what is done about them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pager_core.simkernel import HUGETLB_PRIVATE, SHMEM
from pager_core.simworld import PAGE, Config, World
from userfault.kernel.errors import UsageError
from userfault.pager.core.actions import (
    POISON,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Hasten,
    Overdue,
    Report,
    Wake,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.planner import WindowPlanner
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import FILLING, MISSING, POISONED, PRESENT, Pages
from userfault.pager.core.watch import Watch

START = 1 << 20
DEADLINE_S = 5.0


def core_of(on_overdue: str = "report", **changes: object) -> MappingCore:
    """A core without a kernel: reads of the source may last, faults may wait 5 s."""
    policy = Policy(
        background=False,
        window_bytes=PAGE,
        deadline_s=1000.0,
        fetches=1,
        fault_deadline_s=DEADLINE_S,
        on_overdue=on_overdue,
    )
    plan = Plan(START, PAGE, policy, **changes)  # type: ignore[arg-type]
    return MappingCore(plan, Pages(bytearray(8), 8))


def fault(core: MappingCore, page: int) -> None:
    core.fault(START + page * PAGE, 0)


def read_begun(core: MappingCore, now: float) -> Fetch:
    action = core.out.popleft()
    assert isinstance(action, Fetch)
    core.started(action, now)
    return action


def in_streams(core: MappingCore) -> None:
    """Faults came in order of late: the next one is filled with three more pages."""
    assert isinstance(core.planner, WindowPlanner)
    window = core.planner._window
    window.limit = window.start = 4
    window._went_on = 1.0


def told(core: MappingCore) -> Overdue:
    action = core.out.popleft()
    assert isinstance(action, Overdue)
    return action


def filled(core: MappingCore) -> Fill:
    action = core.out.popleft()
    assert isinstance(action, Fill)
    return action


# --- the memory of waits -------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 3)), max_size=40))
def test_a_wait_is_due_once_and_only_when_old_and_not_served(
    steps: list[tuple[int, bool, float]],
) -> None:
    watch = Watch(DEADLINE_S)
    since: dict[int, float] = {}
    reported: set[int] = set()
    now = 1.0
    for page, serve, passes in steps:
        if serve:
            watch.served(page, 1)
            since.pop(page, None)
            reported.discard(page)
        else:
            watch.wait(page)
            watch.stamp(now)
            since.setdefault(page, now)
        now += passes
        expected = {
            each
            for each, when in since.items()
            if when + DEADLINE_S <= now and each not in reported
        }
        assert {each for each, _ in watch.due(now)} == expected
        for each in expected:
            watch.told(each)
        reported |= expected
        assert watch.any == bool(since)
        assert watch.overdue == len(reported)
        left = [when + DEADLINE_S for each, when in since.items() if each not in reported]
        assert watch.next_time() == min(left, default=None)


def test_without_a_deadline_nothing_is_noted() -> None:
    watch = Watch(None)
    watch.wait(3)
    assert not watch.any
    assert watch.next_time() is None


def test_a_new_wait_asks_for_the_time_at_once() -> None:
    watch = Watch(DEADLINE_S)
    watch.wait(3)
    assert watch.next_time() == 0.0
    watch.stamp(100.0)
    assert watch.next_time() == 100.0 + DEADLINE_S


# --- what is told --------------------------------------------------------------------------------


def test_a_fault_that_is_filled_at_once_is_not_noted() -> None:
    core = core_of()
    fault(core, 2)
    core.done(filled(core))
    assert not core.watch.any
    assert not core.timed


def test_a_read_that_never_ends_is_told_once_with_its_number_and_age() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(104.9)
    assert not core.out
    core.tick(105.0)
    said = told(core)
    assert (said.page, said.address, said.state) == (2, START + 2 * PAGE, "filling")
    assert (said.age_s, said.faults, said.answer) == (5.0, 1, "report")
    assert f"read {fetch.number} of the source (attempt 1 of 3, begun 5.0 s ago)" in said.waits_for
    core.tick(200.0)
    assert not core.out
    assert core.watch.overdue == 1
    core.fetched(fetch, memoryview(bytes([2])))
    core.done(filled(core))
    assert (core.watch.overdue, core.counters.overdue) == (0, 1)


def test_reads_that_queue_are_told_as_queueing() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    read_begun(core, 100.0)
    fault(core, 5)
    core.tick(100.0)
    core.tick(106.0)
    first, second = told(core), told(core)
    assert (first.page, second.page) == (2, 5)
    assert second.waits_for == "one of 1 reads of the source to end"


def test_a_read_that_the_pager_has_not_begun_is_told_as_waiting_for_its_turn() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    core.out.clear()  # the driver holds it back
    core.tick(100.0)
    core.tick(106.0)
    assert "waits for its turn" in told(core).waits_for


def test_waiters_that_pile_up_on_a_page_filled_in_the_background_are_counted() -> None:
    core = core_of(source_fetches=True)
    core.complete()
    assert core.idle_work()
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(110.0)
    assert not core.out  # nobody waits for it
    for _ in range(3):
        fault(core, 2)
    assert core.out.popleft() == Hasten()
    core.tick(110.0)
    core.tick(115.0)
    assert told(core).faults == 3


def test_a_read_is_told_how_long_its_pages_are_waited_for() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    core.tick(100.0)
    assert read_begun(core, 103.0).waited == 3  # it had no place before
    another = core_of(source_fetches=True)
    fault(another, 2)
    assert read_begun(another, 103.0).waited == 0  # nobody has looked at the clock for it yet


def test_a_fill_that_meets_eagain_for_ever_is_told_as_waiting_for_an_event() -> None:
    core = core_of("poison")
    fault(core, 2)
    for _ in range(100):
        core.failed(filled(core), errno.EAGAIN, 0, 100.0)
        core.tick(100.0)
        core.retry()
    core.failed(filled(core), errno.EAGAIN, 0, 106.0)
    core.tick(106.0)
    said = told(core)
    assert "EAGAIN" in said.waits_for
    assert said.answer == "report"  # poison would meet EAGAIN as well
    assert not core.out
    core.retry()
    core.done(filled(core))
    assert core.pages.states[2] == PRESENT


def test_a_dropped_page_whose_zeros_meet_eagain_is_told() -> None:
    core = core_of("poison")
    core.pages.move(2, 1, PRESENT)
    fault(core, 2)
    core.failed(filled(core), errno.EAGAIN, 0, 100.0)
    core.tick(100.0)
    core.tick(106.0)
    said = told(core)
    assert (said.state, said.answer) == ("present", "report")


def test_a_fault_on_memory_that_grew_is_told_by_its_address() -> None:
    core = core_of()
    address = START + 100 * PAGE
    core.fault(address, 0)
    core.failed(filled(core), errno.EAGAIN, 0, 100.0)
    core.tick(100.0)
    core.tick(106.0)
    assert told(core).address == address
    core.retry()
    core.done(filled(core))
    assert not core.watch.any


def test_a_page_refused_for_want_of_memory_is_told_with_the_refusals() -> None:
    core = core_of()
    fault(core, 2)
    core.failed(filled(core), errno.ENOMEM, 0, 100.0)
    core.tick(100.0)
    now = 100.0
    while not core.watch.overdue:
        now += 0.7
        core.tick(now)
        for action in list(core.out):
            core.out.remove(action)
            if isinstance(action, Fill):
                core.failed(action, errno.ENOMEM, 0, now)
            elif isinstance(action, Overdue):
                assert "memory for the page (refused 8 times, ENOMEM)" in action.waits_for
        assert now < 110


def test_a_fault_woken_by_a_failed_read_that_comes_again_has_waited_all_the_time() -> None:
    core = core_of(source_fetches=True)
    in_streams(core)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    assert fetch.count > 1
    core.tick(100.0)
    core.fetch_failed(fetch, "one of them is bad", 104.0)
    assert isinstance(core.out.popleft(), Wake)
    fault(core, 2)
    read_begun(core, 104.0)
    core.tick(105.0)
    assert told(core).age_s == 5.0


def test_a_thread_that_was_woken_and_never_came_back_is_not_told_of() -> None:
    core = core_of(source_fetches=True)
    in_streams(core)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.fetch_failed(fetch, "one of them is bad", 104.0)
    core.out.clear()
    core.tick(105.0)
    assert list(core.out) == [Wake(START + 2 * PAGE, PAGE)]  # a wake too many costs little
    assert not core.watch.any
    assert core.next_time() is None


def test_a_fault_of_a_child_is_told_with_what_its_parent_has_under_way() -> None:
    core = core_of(source_fetches=True, shared=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    child = core.fork()
    child.fault(START + 2 * PAGE, 0)
    child.tick(100.0)
    child.tick(106.0)
    assert f"read {fetch.number}" in told(child).waits_for
    core.fetched(fetch, memoryview(bytes([2])))
    core.done(filled(core))
    assert not child.watch.any


# --- what is done about it -----------------------------------------------------------------------


def test_by_policy_the_page_is_poisoned_and_the_read_stopped() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    fault(core, 5)  # its read queues behind the one that hangs
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "poison"
    poison = filled(core)
    assert (poison.kind, poison.page) == (POISON, 2)
    assert told(core).page == 5
    core.done(poison)
    assert core.pages.states[2] == POISONED
    assert next(action for action in core.out if isinstance(action, Report)).page == 2
    assert fetch.abandoned
    after = [action for action in core.out if isinstance(action, Fetch)]
    assert [(each.page, each.count) for each in after] == [(5, 1)]
    core.fetched(fetch, memoryview(bytes([2])))  # too late
    assert core.pages.states[2] == POISONED


def test_the_pages_of_a_read_that_lasts_are_read_alone_before_any_is_given_up() -> None:
    core = core_of("poison", source_fetches=True)
    in_streams(core)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "alone"
    assert list(core.out) == [Abandon(fetch.number), Wake(START + 2 * PAGE, 4 * PAGE)]
    assert fetch.abandoned
    core.out.clear()
    fault(core, 2)
    alone = read_begun(core, 105.0)
    assert (alone.page, alone.count) == (2, 1)
    core.tick(105.0)
    core.tick(109.9)
    assert not core.out
    core.tick(110.0)
    assert told(core).answer == "poison"
    core.done(filled(core))
    assert bytes(core.pages.states[2:6]) == bytes([POISONED, MISSING, MISSING, MISSING])


def test_poison_that_meets_eagain_is_dropped_so_that_bytes_that_come_are_not_lost() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    told(core)
    core.failed(filled(core), errno.EAGAIN, 0, 105.0)
    assert not core.deferred
    core.fetched(fetch, memoryview(bytes([2])))
    core.done(filled(core))
    assert core.pages.states[2] == PRESENT
    assert not core.watch.any


def test_poison_that_meets_eagain_comes_again_when_as_long_has_passed() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    told(core)
    core.failed(filled(core), errno.EAGAIN, 0, 105.0)
    core.tick(105.0)
    assert not core.out
    core.tick(110.0)
    told(core)
    core.done(filled(core))
    assert core.pages.states[2] == POISONED


def test_a_page_filled_before_its_deadline_is_let_alone() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.fetched(fetch, memoryview(bytes([2])))
    core.tick(105.0)  # the fill is on its way
    assert [type(action) for action in core.out] == [Fill]
    core.done(filled(core))
    core.tick(106.0)
    assert not core.out


@pytest.mark.parametrize(
    ("on_overdue", "has_poison"), [("kill", True), ("poison", False)], ids=["policy", "no poison"]
)
def test_the_client_is_ended_by_policy_or_where_there_is_no_poison(
    on_overdue: str, has_poison: bool
) -> None:
    core = core_of(on_overdue, source_fetches=True, has_poison=has_poison)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "kill"
    ended = core.out.popleft()
    assert isinstance(ended, EndClient)
    assert "read 1 of the source" in ended.message


def test_a_fetch_that_passes_its_own_deadline_at_that_moment_is_told_by_its_next_attempt() -> None:
    core = core_of(source_fetches=True)
    core.ledger.plan = Plan(START, PAGE, Policy(deadline_s=5.0), source_fetches=True)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    said = [action for action in core.out if isinstance(action, Overdue)]
    assert "attempt 2 of 3" in said[0].waits_for
    assert core.pages.states[2] == FILLING


@pytest.mark.parametrize("kind", [SHMEM, HUGETLB_PRIVATE], ids=lambda kind: kind.name)
def test_threads_of_a_page_given_up_get_sigbus_and_the_others_their_bytes(kind: object) -> None:
    config = Config(
        kind=kind,  # type: ignore[arg-type]
        origin="function",
        background=False,
        window=1,
        fault_deadline=0.5,
        on_overdue="poison",
    )
    world = World(config)
    threads = world.kernel.mms[0].threads
    world.kernel.touch(threads[0], world.kernel.start + 2)
    world.drained()
    while world.step():
        pass
    world.now += 0.6  # the read has a second, the fault half of one
    while world.step():
        pass
    assert [said.page for said in world.overdue] == [2]
    world.kernel.run(threads[0])
    assert threads[0].last == "SIGBUS"
    world.finale()
    held = world.contexts[0].core.pages.states
    assert bytes(held[0:4]) == bytes([PRESENT, PRESENT, POISONED, PRESENT])
    assert MISSING not in bytes(held[0:8])


@pytest.mark.parametrize("wrong", [{"fault_deadline_s": 0.0}, {"on_overdue": "shrug"}])
def test_a_policy_without_meaning_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Policy(**wrong)  # type: ignore[arg-type]
