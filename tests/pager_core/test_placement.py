"""Where the pager stands: with the thread that faults, or apart from it and for how long."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from userfault.kernel.errors import UsageError
from userfault.pager.core.placement import Chooser, kept_waiting
from userfault.pager.core.placing import Look, Placing, Stand
from userfault.pager.core.polling import LONGEST_S, Polling

ALL = frozenset({0, 1, 2, 3})
LONG_S = 0.06  # longer than a place is watched before it is judged
FAULTS = 100


class Scene:
    """A chooser and its clock; `sees` gives it one look, `step_s` after the one before."""

    def __init__(
        self, placing: Placing | None = None, allowed: frozenset[int] = ALL, step_s: float = 0.01
    ) -> None:
        self.chooser = Chooser(placing or Placing(), allowed)
        self.now = 1000.0
        self.step_s = step_s

    def sees(
        self,
        cpu: int,
        thread: int = 100,
        *,
        bound: bool = False,
        working: bool = False,
        wait_us: float = 0.0,
        faults: int = FAULTS,
    ) -> Stand:
        """`wait_us`: how long others kept us waiting for each fault."""
        self.now += self.step_s
        waited_s = wait_us * 1e-6 * faults
        return self.chooser.saw(Look(self.now, thread, cpu, bound, working, faults, waited_s))

    def driven_aside(self, cpu: int) -> Stand:
        """Follow a thread that leaves each time, to the CPU above, until we stand apart."""
        for at in range(20):
            stand = self.sees((cpu + at) % 4)
            if stand.polls:
                return stand
        raise AssertionError("it never stood apart")


def test_before_the_first_look_every_allowed_cpu_is_right() -> None:
    assert Scene().chooser.first() == Stand(ALL, polls=False, look_after=0)


def test_it_goes_where_the_first_fault_came_from_and_sleeps_there() -> None:
    stand = Scene().sees(2)
    assert stand.cpus == {2}
    assert not stand.polls


def test_a_thread_that_moved_is_followed_at_the_first_look() -> None:
    scene = Scene()
    for _ in range(20):
        scene.sees(2)
    assert scene.sees(1).cpus == {1}


def test_a_new_place_is_looked_at_sooner_than_one_that_is_known() -> None:
    scene = Scene()
    fresh = scene.sees(2)
    assert fresh.look_after < scene.sees(2).look_after


def test_threads_on_one_cpu_are_followed_together() -> None:
    scene = Scene()
    stands = [scene.sees(3, thread=thread) for thread in (1, 2, 3, 4) * 5]
    assert all(stand.cpus == {3} for stand in stands)


def test_threads_on_several_cpus_leave_the_choice_to_the_scheduler() -> None:
    scene = Scene()
    stands = [scene.sees(thread % 4, thread=thread) for thread in (0, 1, 2, 3) * 5]
    assert all(stand.cpus == ALL and not stand.polls for stand in stands[-8:])


def test_threads_that_alternate_between_two_cpus_do_not_drag_it_along() -> None:
    scene = Scene()
    stands = [scene.sees(thread, thread=thread) for thread in (0, 1) * 50]
    moves = sum(before.cpus != after.cpus for before, after in pairwise(stands))
    assert moves <= 1


def test_a_guest_thread_now_and_then_does_not_drag_it_along() -> None:
    scene = Scene()
    stands = [scene.sees(1 if at % 5 == 4 else 0, thread=1 + (at % 5 == 4)) for at in range(100)]
    assert all(stand.cpus == {0} for stand in stands[1:])


def test_only_so_many_threads_are_remembered() -> None:
    scene = Scene()
    for thread in range(1, 1000):
        scene.sees(0, thread=thread)
    assert len(scene.chooser.threads) <= 8
    assert len(scene.chooser._where) <= 9


# --- apart ----------------------------------------------------------------------------------------


def test_a_thread_that_leaves_whenever_we_come_is_served_from_another_cpu() -> None:
    scene = Scene()
    stand = scene.driven_aside(0)
    cpu = scene.chooser._where[100]
    assert stand.cpus == ALL - {cpu}
    assert scene.sees(cpu).polls


def test_it_tries_to_follow_again_later_and_the_pause_doubles_up_to_a_bound() -> None:
    scene = Scene()
    pauses = []
    for _ in range(6):
        scene.driven_aside(0)
        cpu = scene.chooser._where[100]
        since = scene.now
        while scene.sees(cpu).polls:
            pass
        pauses.append(scene.now - since)
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 2, 2], abs=0.02)


def test_following_that_lasts_makes_the_pauses_short_again() -> None:
    scene = Scene()
    for _ in range(3):
        scene.driven_aside(0)
        scene.now += 10
    for _ in range(500):
        assert scene.sees(1).cpus == {1} or scene.now < 1040
    scene.driven_aside(2)
    assert scene.chooser._apart_until - scene.now == pytest.approx(0.25, abs=0.02)


def test_a_thread_that_is_bound_to_its_cpu_cannot_leave_and_is_followed_at_once() -> None:
    scene = Scene()
    scene.driven_aside(0)
    assert scene.sees(0, bound=True).cpus == {0}


def test_where_others_keep_it_waiting_it_stands_apart_and_polls() -> None:
    scene = Scene(step_s=LONG_S)
    scene.sees(1)
    assert scene.sees(1, wait_us=0).cpus == {1}
    stand = scene.sees(1, wait_us=100)
    assert stand.cpus == ALL - {1}
    assert stand.polls
    assert scene.sees(1, faults=2 * FAULTS) == stand  # twice as many faults in the same time


def test_a_short_wait_is_better_than_another_cpu() -> None:
    scene = Scene(step_s=LONG_S)
    assert all(scene.sees(1, wait_us=5).cpus == {1} for _ in range(50))


def test_one_moment_is_no_reason_to_leave() -> None:
    scene = Scene(step_s=0.001)
    scene.sees(1)
    assert scene.sees(1, wait_us=500).cpus == {1}
    assert all(scene.sees(1).cpus == {1} for _ in range(200))


def test_one_fault_that_waited_very_long_is_enough_and_not_soon_tried_again() -> None:
    scene = Scene(step_s=1.0)
    scene.sees(1)
    stand = scene.sees(1, wait_us=0.9e6, faults=1)
    assert stand.polls
    for _ in range(17):  # 0.9 s are paid back by 18 s
        assert scene.sees(1) == stand
    scene.now += 1
    assert scene.sees(1).cpus == {1}


@pytest.mark.parametrize("wait_us", [0, 100])
def test_where_faults_come_no_faster_apart_it_comes_back_and_stays(wait_us: float) -> None:
    scene = Scene(step_s=LONG_S)
    scene.sees(1)
    assert scene.sees(1, wait_us=100).polls
    assert scene.sees(1, wait_us=wait_us).cpus == {1}
    assert all(scene.sees(1, wait_us=100).cpus == {1} for _ in range(5))


def test_trials_in_vain_become_rare() -> None:
    scene = Scene(step_s=LONG_S)
    apart = sum(scene.sees(1, wait_us=100).polls for _ in range(1000))
    assert 10 < apart < 40  # of a minute: one watch every two seconds


def test_where_it_waits_apart_too_it_comes_back_though_the_thread_leaves() -> None:
    scene = Scene(step_s=LONG_S)
    scene.driven_aside(0)
    cpu = scene.chooser._where[100]
    assert scene.sees(cpu).polls
    assert scene.sees(cpu, wait_us=100).cpus == {cpu}


def test_on_the_only_cpu_it_stays_whatever_happens_there() -> None:
    scene = Scene(allowed=frozenset({0}), step_s=LONG_S)
    stands = [scene.sees(0, wait_us=1000, working=at % 2 == 1) for at in range(20)]
    assert all(stand.cpus == {0} and not stand.polls for stand in stands)


def test_where_it_may_not_go_it_polls_from_where_it_may() -> None:
    stand = Scene(allowed=frozenset({2, 3})).sees(0)
    assert stand.cpus == {2, 3}
    assert stand.polls


def test_cpus_that_are_taken_away_are_not_gone_to() -> None:
    scene = Scene()
    scene.sees(0)
    scene.chooser.allow(frozenset({1}))
    assert scene.sees(0).cpus == {1}


# --- background work ------------------------------------------------------------------------------


def test_background_work_keeps_off_the_faulting_threads_cpu() -> None:
    scene = Scene()
    scene.sees(1)
    stand = scene.sees(1, working=True)
    assert stand.cpus == ALL - {1}
    assert not stand.polls
    assert scene.sees(1).cpus == {1}


def test_background_work_before_the_first_fault_is_no_look() -> None:
    scene = Scene()
    stand = scene.sees(-1, thread=0, working=True)
    assert stand == scene.chooser.first()


# --- what the user says ---------------------------------------------------------------------------


def test_a_cpu_that_is_given_is_kept_and_polls_for_faults_from_others() -> None:
    scene = Scene(Placing(cpu=3))
    assert scene.chooser.first().cpus == {3}
    assert scene.sees(1) == scene.sees(1)
    assert scene.sees(1).cpus == {3}
    assert scene.sees(1).polls
    assert not scene.sees(3).polls


def test_whoever_binds_it_later_overrules_the_cpu_that_was_given() -> None:
    scene = Scene(Placing(cpu=3))
    scene.chooser.allow(frozenset({0, 1}))
    assert scene.sees(1).cpus == {0, 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpu": "folow"},
        {"cpu": ""},
        {"cpu": -1},
        {"cpu": True},
        {"cpu": 1.0},
        {"cpu": None},
        {"poll_budget": -0.1},
        {"poll_budget": 1.1},
        {"poll_budget": float("nan")},
    ],
    ids=str,
)
def test_a_wish_that_means_nothing_is_refused_with_a_cure(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Placing(**wrong)
    assert caught.value.cause
    assert caught.value.cure


# --- what counts as waiting -----------------------------------------------------------------------


def test_the_faulting_threads_own_work_does_not_count_as_keeping_us_waiting() -> None:
    # woken by a fill, the thread ran 5 s of the 8 while we were about to go to sleep
    assert kept_waiting(delayed=5, ran=5, serving=8, used=3) == 0


def test_a_thread_that_computes_hides_no_other_work() -> None:
    # it ran for 90 s, but our work was interrupted for 1 s only: the rest we waited for others
    assert kept_waiting(delayed=10, ran=90, serving=3, used=2) == 9


def test_others_than_the_thread_count() -> None:
    assert kept_waiting(delayed=10, ran=2, serving=30, used=3) == 8


# --- polling --------------------------------------------------------------------------------------


def used_in(polling: Polling, seconds: float, *, gap_s: float, start: float = 5000.0) -> float:
    """How much it polls of `seconds` in which a fault comes `gap_s` after each wait began."""
    now, used, before = start, 0.0, polling.used_s
    while now < start + seconds:
        polled = min(polling.allowance(now), gap_s)
        now += gap_s
        polling.waited(gap_s, polled)
        used += polled
    assert polling.used_s - before == pytest.approx(used)
    return used


def test_without_a_budget_it_never_polls() -> None:
    assert used_in(Polling(0), 10, gap_s=20e-6) == 0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_polling_keeps_to_its_budget(share: float) -> None:
    used = used_in(Polling(share), 10, gap_s=20e-6)
    assert 9.5 * share < used <= 11.1 * share  # what one second saves may be used on top


def test_a_whole_cpu_polls_all_the_time() -> None:
    assert used_in(Polling(1), 2, gap_s=20e-6) == pytest.approx(2, rel=0.01)


def test_faults_that_come_slowly_are_not_polled_for() -> None:
    polling = Polling(1)
    used_in(polling, 1, gap_s=0.01)
    assert polling.used_s <= 4 * LONGEST_S


def test_polling_begins_again_when_faults_come_quickly() -> None:
    polling = Polling(1)
    used_in(polling, 1, gap_s=0.01)
    before = polling.used_s
    used_in(polling, 1, gap_s=20e-6, start=6000.0)
    assert polling.used_s - before > 0.9
