"""A read that the disk is about to answer is asked for again; a long one is handed over."""

from __future__ import annotations

from userfault.pager.core.polling import LONGEST_S, Polling
from userfault.pager.drivers.serving.momentary import Momentary

Ready = list[tuple[int, int]]


class Clock:
    """Each look at it takes 5 µs."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 5e-6
        return self.now


class Read:
    """Answered when asked for the `after`th time."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.handed_over = 0

    def now(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def hand_over(self) -> None:
        self.handed_over += 1


def nothing() -> Ready:
    return []


def wait(
    momentary: Momentary, read: Read, *, ready: Ready | None = None, working: bool = False
) -> list[Read]:
    """Whoever was answered."""
    answered: list[Read] = []
    momentary.hold(read, lambda: answered.append(read))
    assert momentary
    assert momentary.wait(lambda: ready or [], working=working) == (ready or [])
    assert not momentary
    return answered


def test_an_answer_in_time_is_taken_without_a_thread() -> None:
    read = Read(4)
    assert wait(Momentary(Polling(1), Clock()), read) == [read]
    assert not read.handed_over


def test_what_takes_longer_goes_to_a_thread() -> None:
    clock = Clock()
    read = Read(1 << 30)
    began = clock.now
    assert not wait(Momentary(Polling(1), clock), read)
    assert read.handed_over == 1
    assert clock.now - began < 2 * LONGEST_S


def test_a_fault_goes_first() -> None:
    read = Read(1 << 30)
    assert not wait(Momentary(Polling(1), Clock()), read, ready=[(5, 1)])
    assert read.handed_over == 1
    assert read.left == 1 << 30  # it was not even asked


def test_beside_other_work_it_is_asked_once() -> None:
    read = Read(2)
    assert not wait(Momentary(Polling(1), Clock()), read, working=True)
    assert (read.left, read.handed_over) == (1, 1)


def test_a_second_read_has_the_first_handed_over() -> None:
    momentary = Momentary(Polling(1), Clock())
    first, second = Read(1), Read(1)
    momentary.hold(first, nothing)
    assert wait(momentary, second) == [second]
    assert first.handed_over == 1


def test_without_a_budget_none_is_held() -> None:
    assert not Momentary(Polling(0), Clock()).pays


def test_a_slow_disk_is_not_polled_until_it_is_fast_again() -> None:
    momentary = Momentary(Polling(1), Clock())
    for _ in range(4):
        assert momentary.pays
        wait(momentary, Read(1 << 30))
    assert not momentary.pays
    momentary.took(10 * LONGEST_S)
    assert not momentary.pays
    momentary.took(LONGEST_S / 2)
    assert momentary.pays


def test_both_ways_of_polling_spend_from_one_budget() -> None:
    faults = Polling(0.1)
    disk = faults.another()
    now = 5000.0
    faults.waited(1e-6, disk.allowance(now) + 1.0)
    assert disk.allowance(now) == 0
    assert disk.used_s == faults.used_s > 1


def test_what_a_thread_would_have_cost_is_not_counted() -> None:
    polling = Polling(0.1)
    polling.allowance(5000.0)
    for _ in range(1000):
        polling.waited(20e-6, 20e-6, 25e-6)
    assert polling.allowance(5000.0) == LONGEST_S
