"""The pager is where the faults come from, stays where it is put, and rests when nothing comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.pages import PAGE
from helpers.skips import absent, need_root
from pager_live import functions
from pager_live.scenes import worker_of
from userfault import Pager, Policy, UsageError, lazy

ALONE = Policy(background=False, window_bytes=PAGE)  # each touch is a fault
PATIENCE_S = 20.0


@pytest.fixture
def two() -> Iterator[tuple[int, int]]:
    """Two CPUs; this thread is put back afterwards."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        absent("needs two CPUs")
    yield min(before), max(before)
    os.sched_setaffinity(0, before)


def touch(mapped: userfault.LazyMemory, start: int, count: int = 1) -> None:
    for page in range(start, start + count):
        assert mapped[page * PAGE] is not None


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.005)
    return False


def cpu_s(pid: int) -> float:
    """CPU time of a process (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def comes_to_rest(pid: int) -> bool:
    """Whether a process stops using CPU time: none in a fifth of a second."""

    def rests() -> bool:
        before = cpu_s(pid)
        time.sleep(0.2)
        return cpu_s(pid) == before

    return eventually(rests)


def test_it_goes_to_the_cpu_of_the_thread_that_faults(image: Path, two: tuple[int, int]) -> None:
    with Pager() as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        for at, cpu in enumerate([*two, two[0]]):
            os.sched_setaffinity(0, {cpu})
            time.sleep(0.15)  # a fault that comes late is looked at
            touch(mapped, at)
            assert eventually(lambda cpu=cpu: os.sched_getaffinity(worker_of(pager)) == {cpu})  # type: ignore[misc]


def test_it_stays_within_the_cpus_that_it_was_bound_to(image: Path, two: tuple[int, int]) -> None:
    with Pager() as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        os.sched_setaffinity(0, {two[0]})
        os.sched_setaffinity(worker_of(pager), {two[1]})
        for start in range(0, 1000, 100):
            touch(mapped, start, 100)
            assert os.sched_getaffinity(worker_of(pager)) == {two[1]}


def test_started_by_a_bound_thread_it_stays_on_that_threads_cpus(
    image: Path, two: tuple[int, int]
) -> None:
    os.sched_setaffinity(0, {two[0]})
    with Pager() as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        os.sched_setaffinity(0, {two[1]})
        touch(mapped, 0, 600)
        assert os.sched_getaffinity(worker_of(pager)) == {two[0]}


def test_told_any_it_is_never_bound(image: Path, two: tuple[int, int]) -> None:
    before = os.sched_getaffinity(0)
    with Pager(cpu="any") as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        os.sched_setaffinity(0, {two[0]})
        touch(mapped, 0, 600)
        statistics = mapped.statistics()
        assert os.sched_getaffinity(worker_of(pager)) == before
        assert statistics.pager_polled_s == 0


def test_a_cpu_that_is_given_is_kept_whoever_faults(image: Path, two: tuple[int, int]) -> None:
    with Pager(cpu=two[1]) as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        os.sched_setaffinity(0, {two[0]})
        for start in range(0, 1000, 100):
            touch(mapped, start, 100)
            assert os.sched_getaffinity(worker_of(pager)) == {two[1]}


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_away_from_the_thread_it_polls_within_its_budget_and_rests_after(
    image: Path, two: tuple[int, int], budget: float
) -> None:
    with (
        Pager(cpu=two[1], poll_budget=budget) as pager,
        lazy(image, policy=ALONE, pager=pager) as mapped,
    ):
        os.sched_setaffinity(0, {two[0]})
        touch(mapped, 0, 1000)
        statistics = mapped.statistics()
        assert (statistics.pager_polled_s > 0) is (budget > 0)
        assert statistics.pager_polled_s < statistics.pager_cpu_s + 1
        assert comes_to_rest(worker_of(pager))


def test_on_the_threads_cpu_it_does_not_poll(image: Path, two: tuple[int, int]) -> None:
    source = image.read_bytes()  # in memory: a disk that answers soon is polled for, too
    with Pager(cpu=two[0], poll_budget=1) as pager, lazy(source, policy=ALONE, pager=pager) as got:
        os.sched_setaffinity(0, {two[0]})
        touch(got, 0, 1000)
        assert got.statistics().pager_polled_s == 0


def test_an_idle_pager_uses_no_cpu_time(image: Path) -> None:
    with Pager() as pager, lazy(image, policy=ALONE, pager=pager) as mapped:
        touch(mapped, 0, 300)
        assert mapped.statistics().pager_cpu_s > 0
        assert comes_to_rest(worker_of(pager))


def test_what_the_pager_starts_is_not_bound_with_it(two: tuple[int, int]) -> None:
    before = os.sched_getaffinity(0)
    source = userfault.function(functions.numbered, 64 * PAGE)
    with Pager(cpu=two[1]) as pager, lazy(source, policy=ALONE, pager=pager) as mapped:
        touch(mapped, 0)
        pid = worker_of(pager)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert children
        assert all(os.sched_getaffinity(int(worker)) == before for worker in children)
        assert os.sched_getaffinity(worker_of(pager)) == {two[1]}


def test_threads_that_it_cannot_see_are_served_from_anywhere(image: Path) -> None:
    need_root()
    found = child.run("pager_live.scenes:pager_in_another_pid_namespace", str(image))
    assert found == {"right": True, "free": True, "polled": 0}


@pytest.mark.parametrize("cpu", [1 << 20, -1, "left", True])
def test_a_cpu_that_is_not_to_be_had_is_refused_before_anything_is_started(
    cpu: int | str,
) -> None:
    with pytest.raises(UsageError) as caught:
        Pager(cpu=cpu)
    assert caught.value.cure


def test_a_budget_that_is_no_share_is_refused() -> None:
    with pytest.raises(UsageError, match="poll_budget"):
        Pager(poll_budget=2)
