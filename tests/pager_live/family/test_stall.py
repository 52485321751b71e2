"""A worker that is stuck: what the supervisor sees of it, and that it is replaced."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.pages import PAGE, numbers
from pager_live.scenes import worker_of
from userfault import Pager, Policy, lazy
from userfault.pager.drivers.family.stall import Stall


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], object]], int]]:
    pids = []

    def fork(work: Callable[[], object]) -> int:
        pid = os.fork()
        if not pid:
            work()
            os._exit(0)
        pids.append(pid)
        return pid

    yield fork
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


Fork = Callable[[Callable[[], object]], int]


def waiting(forked: Fork) -> int:
    return forked(lambda: select.epoll().poll(-1))


def until(pid: int, state: str, place: str = "") -> int:
    """Wait until the process is in `state` (and sleeps at `place`)."""
    while True:
        text = Path(f"/proc/{pid}/status").read_text()
        if f"State:\t{state}" in text and place in Path(f"/proc/{pid}/wchan").read_text():
            return pid
        time.sleep(0.001)


def looks(pid: int) -> list[bool]:
    stall = Stall()
    return [stall.seen(pid) for _ in range(3)]


def test_a_process_that_waits_for_work_is_not_stuck(forked: Fork) -> None:
    assert looks(until(waiting(forked), "S", "epoll")) == [False, False, False]


def test_a_process_that_runs_is_not_stuck(forked: Fork) -> None:
    def spin() -> None:
        while True:
            pass

    assert looks(forked(spin)) == [False, False, False]


def test_a_process_in_one_system_call_is_stuck_at_the_second_look(forked: Fork) -> None:
    assert looks(until(forked(signal.pause), "S", "pause")) == [False, True, True]


def test_a_stopped_process_is_stuck_at_the_second_look(forked: Fork) -> None:
    pid = waiting(forked)
    os.kill(pid, signal.SIGSTOP)
    assert looks(until(pid, "T")) == [False, True, True]


def test_one_that_has_run_since_the_last_look_is_not_stuck(forked: Fork) -> None:
    def nap() -> None:
        while True:
            time.sleep(0.01)

    def runs() -> int:
        """How often it was given the processor."""
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[2])

    pid = forked(nap)
    stall = Stall()
    found = []
    for _ in range(3):
        found.append(stall.seen(pid))
        before = runs()
        while runs() < before + 2:  # the first may be the one that is under way
            time.sleep(0.001)
    assert found == [False, False, False]


def test_what_has_ended_or_is_another_process_is_not_stuck(forked: Fork) -> None:
    stall = Stall()
    assert not stall.seen((1 << 22) + 1)
    first, second = (until(forked(signal.pause), "S", "pause") for _ in range(2))
    assert [stall.seen(first), stall.seen(second), stall.seen(first)] == [False, False, False]


def test_a_worker_that_was_stopped_is_replaced_and_its_threads_go_on(image: Path) -> None:
    with Pager() as pager, lazy(image, pager=pager, policy=Policy(background=False)) as mapped:
        assert numbers(mapped[:PAGE]) == [1]
        os.kill(worker_of(pager), signal.SIGSTOP)
        assert numbers(mapped[9 * PAGE : 10 * PAGE]) == [10]
        assert pager.takeovers == 1
