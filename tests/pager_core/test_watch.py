"""The watchdog: which faults are told of, when, and waiting for what."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from pager_core.simstate import PAGE
from pager_core.watched import (
    DEADLINE_S,
    START,
    core_of,
    fault,
    filled,
    in_streams,
    read_begun,
    told,
)
from userfault.pager.core.actions import Fill, Hasten, Overdue, Wake
from userfault.pager.core.states import PRESENT
from userfault.pager.core.watch import Watch

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


def test_without_a_deadline_nothing_is_ever_due() -> None:
    watch = Watch(None)
    watch.wait(3)
    assert watch.pages() == [3]
    assert watch.next_time() is None
    assert not list(watch.due(1e9))
    watch.served(3, 1)
    assert not watch.any


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
