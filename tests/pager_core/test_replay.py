"""What a course says comes ahead of the faults, as far as it is the source's still."""

from __future__ import annotations

import errno
import random

import pytest

from pager_core.hands import START, core_of, fault, fill_of
from pager_core.simstate import PAGE
from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    LOOK_FILLS,
    ZERO,
    Fill,
    Together,
    between_looks,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.states import CACHED, FILLING, MISSING, PRESENT, REMOVED, Pages
from userfault.snapshot.working_sets.course import Course, Run, written

COUNT = 256


def course(*groups: list[Run], sample: tuple[int, ...] = ()) -> Course:
    return Course(written(groups, sample))


def replayed(*groups: list[Run], sample: tuple[int, ...] = (), **changes: object) -> MappingCore:
    return core_of(COUNT, course=course(*groups, sample=sample), **changes)


def together(core: MappingCore) -> Together:
    assert core.idle_work() > 0
    action = core.out.popleft()
    assert isinstance(action, Together)
    assert not core.out
    return action


def late(core: MappingCore, page: int) -> None:
    """A thread waits for a page, and is helped."""
    core.batch()
    fault(core, page)
    if core.out:
        core.done(fill_of(core))


def all_of(core: MappingCore) -> list[list[Run]]:
    """Everything that comes, each action performed as a whole."""
    found = []
    while core.eager and core.idle_work():
        action = core.out.popleft()
        assert isinstance(action, Together)
        found.append(action.runs)
        core.series.done(action, len(action.runs))
    return found


def test_groups_come_in_their_order_each_by_one_action() -> None:
    core = replayed([(8, 2), (3, 1)], [(100, 16)])
    assert all_of(core) == [[(3, 1), (8, 2)], [(100, 16)]]
    assert [page for page in range(COUNT) if core.pages.states[page] == PRESENT] == [
        3, 8, 9, *range(100, 116),
    ]  # fmt: skip
    assert core.counters.set_filled == 19
    assert core.pages.unsettled == COUNT - 19


def test_where_writes_are_tracked_a_page_is_filling_before_its_bytes_are_seen() -> None:
    core = replayed([(8, 2), (3, 1)], tracked=True)
    assert core.idle_work() > 0
    (action,) = core.out
    assert isinstance(action, Fill)
    states = core.pages.states[action.page : action.page + action.count]
    assert bytes(states) == bytes([FILLING]) * action.count


def test_what_is_not_the_sources_any_more_is_left_alone() -> None:
    core = replayed([(0, 8)])
    core.remove(START + 2 * PAGE, START + 4 * PAGE)
    core.batch()
    fault(core, 6)
    fill = fill_of(core)  # under way
    assert all_of(core) == [[(0, 2), (4, 2), (7, 1)]]
    assert core.pages.states[2] == core.pages.states[3] == REMOVED
    assert core.pages.states[6] == FILLING
    core.done(fill)


def test_it_goes_on_where_the_driver_stopped_for_a_fault() -> None:
    core = replayed([(0, 1), (2, 1), (4, 1), (6, 1)])
    action = together(core)
    core.series.done(action, 2)
    core.batch()
    fault(core, 4)
    core.done(fill_of(core))
    assert core.counters.set_late == 1
    assert all_of(core) == [[(6, 1)]]


def test_while_faults_come_an_action_is_what_is_filled_between_two_looks() -> None:
    core = replayed([(page, 1) for page in range(0, 200, 2)])
    action = together(core)
    assert len(action.runs) == 100  # nobody waits
    core.series.done(action, 5)
    late(core, 150)
    action = together(core)
    assert action.runs == [(page, 1) for page in range(10, 138, 2)]
    assert len(action.runs) == action.patience * LOOK_FILLS
    core.series.done(action, len(action.runs))
    late(core, 30)  # has come by now: it is asked for by a second thread
    action = together(core)
    core.series.done(action, len(action.runs))
    assert action.runs == [(page, 1) for page in range(138, 200, 2) if page != 150]
    assert not core.idle_work()


def test_of_huge_pages_each_is_followed_by_a_look() -> None:
    assert between_looks(16, 50, 50 * (2 << 20)) == 1
    assert between_looks(1, 50, 50 * PAGE) == LOOK_FILLS
    assert between_looks(4, 50, 50 * 16 * PAGE) == 4


def test_a_driver_is_patient_with_who_waits_for_the_set_and_with_nobody_else() -> None:
    core = replayed([(page, 1) for page in range(0, 100, 2)], [(101, 1)], [(103, 1)], [(105, 1)])
    first = together(core)
    core.series.done(first, 1)
    for page in (90, 92, 94, 96):
        late(core, page)
    more = together(core)
    assert more.patience > first.patience > 1
    core.series.done(more, 1)
    late(core, 200)
    assert core.counters.set_outside == 1
    rest = together(core)
    assert rest.patience == 1
    while rest.runs[-1] < (98, 1):
        core.series.done(rest, len(rest.runs))
        rest = together(core)
        assert rest.patience == 1
    core.series.done(rest, len(rest.runs))
    patience = []
    for _ in range(3):
        action = together(core)
        patience.append(action.patience)
        core.series.done(action, 1)
    assert patience == [1, first.patience, first.patience]  # a group has passed without another


def test_a_run_that_is_refused_is_a_fill_of_its_own() -> None:
    core = replayed([(0, 2), (4, 2)])
    action = together(core)
    core.series.done(action, 1)
    fill = core.series.stopped(action, 1)
    assert (fill.page, fill.count, fill.address, fill.demand) == (4, 2, START + 4 * PAGE, False)
    core.failed(fill, errno.EAGAIN, 0, 0.0)
    assert core.deferred
    assert core.idle_work() == 0
    core.remove(START + 4 * PAGE, START + 5 * PAGE)  # what the refusal was for
    core.out.clear()  # whoever waits there is woken
    core.retry()
    again = fill_of(core)
    assert (again.page, again.count) == (5, 1)
    core.done(again)
    core.out.clear()
    assert core.idle_work() == 0
    assert not core.eager


def test_what_could_not_be_read_is_not_tried_again_together() -> None:
    core = replayed([(0, 4)])
    action = together(core)
    fill = core.series.stopped(action, 0)
    core.source_failed(fill, "it is broken", 0.0)
    core.out.clear()
    assert core.pages.states[0] == MISSING
    assert core.idle_work() == 0
    assert not core.out


def test_a_hint_that_leads_nowhere_ends() -> None:
    core = replayed([(0, 4)])
    offers = 0
    while core.eager and core.idle_work():
        core.out.clear()  # a driver that never gets on
        offers += 1
        assert offers < 1000
    assert not core.eager


def test_memory_that_was_moved_is_filled_a_run_at_a_time() -> None:
    core = replayed([(0, 2), (4, 2)])
    core.remap(START, 1 << 30, COUNT * PAGE)
    core.out.clear()
    assert core.idle_work() == 2
    fill = fill_of(core)
    assert (fill.page, fill.address) == (0, 1 << 30)
    core.done(fill)


def test_pages_that_are_known_to_be_zeros_are_filled_as_such() -> None:
    core = replayed([(0, 2), (4, 2)], source_zero=True)
    assert together(core).kind == ZERO


def test_pages_that_are_cached_are_mapped() -> None:
    core = replayed([(0, 2), (4, 2)])
    for page in range(COUNT):
        core.pages.states[page] = CACHED
    action = together(core)
    assert action.kind == CONTINUE
    core.series.done(action, 2)
    assert core.pages.states[4] == PRESENT


def test_cached_pages_whose_mapping_is_refused_are_mapped_later() -> None:
    """While an event waits to be read every fill is refused."""
    core = replayed([(0, 2), (4, 2)])
    for page in range(COUNT):
        core.pages.states[page] = CACHED
    action = together(core)
    core.series.done(action, 1)
    core.failed(core.series.stopped(action, 1), errno.EAGAIN, 0, 0.0)
    assert core.deferred
    assert bytes(core.pages.states[4:6]) == bytes([CACHED]) * 2
    core.retry()
    again = fill_of(core)
    assert (again.kind, again.page, again.count) == (CONTINUE, 4, 2)
    core.done(again)
    assert bytes(core.pages.states[4:6]) == bytes([PRESENT]) * 2


def test_a_source_that_has_to_be_asked_is_read_run_by_run() -> None:
    core = replayed([(0, 2), (4, 2)], source_fetches=True)
    assert core.idle_work() == 2
    fetch = core.out.popleft()
    assert not isinstance(fetch, Fill | Together)


def test_the_sample_tells_how_many_pages_are_touched() -> None:
    core = replayed([(0, 4)], sample=(10, 20))
    all_of(core)
    assert (core.counters.set_sampled, core.counters.set_touched) == (2, 0)
    for page in (10, 50):
        core.batch()
        fault(core, page)
        core.done(fill_of(core))
    assert core.counters.set_touched == 1
    assert core.counters.set_outside == 1


def test_when_everything_is_given_up_nothing_more_comes() -> None:
    core = replayed([(0, 4)])
    core.give_up("asked to", "")
    core.out.clear()
    assert not core.eager


def test_of_a_child_only_touches_bring_pages_in() -> None:
    core = replayed([(0, 4)])
    child = core.fork(Pages(bytearray(COUNT), COUNT))
    assert core.eager
    assert not child.eager


@pytest.mark.parametrize("seed", range(40))
def test_any_course_brings_right_pages_and_ends(seed: int) -> None:
    dice = random.Random(seed)
    groups = [
        [(dice.randrange(COUNT - 8), dice.randint(1, 8)) for _ in range(dice.randint(1, 30))]
        for _ in range(dice.randint(1, 8))
    ]
    core = replayed(*groups)
    while core.eager and core.idle_work():
        action = core.out.popleft()
        assert isinstance(action, Together)
        assert action.kind == COPY
        for page, count in action.runs:
            assert core.pages.run(page, count, MISSING) == count
        core.series.done(action, dice.randint(1, len(action.runs)))
        if dice.random() < 0.3:
            page = dice.randrange(COUNT)
            core.remove(START + page * PAGE, START + (page + 1) * PAGE)
            core.out.clear()
        if dice.random() < 0.3:
            page = dice.randrange(COUNT)
            if core.pages.states[page] in (MISSING, PRESENT):
                late(core, page)
    wanted = {page for group in groups for at, n in group for page in range(at, at + n)}
    for page in wanted:
        assert core.pages.states[page] in (PRESENT, REMOVED)
    assert core.pages.unsettled == core.pages.counts()["missing"]
