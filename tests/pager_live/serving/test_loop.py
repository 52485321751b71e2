"""The loop alone: it knows descriptors, times and background work, and nobody whom it serves."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections.abc import Callable, Iterator

import pytest

from helpers.skips import absent
from userfault.linux.libc import nap
from userfault.pager.core.placing import ANY, Placing
from userfault.pager.drivers.serving.loop import Loop


class Nothing:
    """No background work."""

    def __bool__(self) -> bool:
        return False

    def disturbed(self) -> bool:
        return False

    def work(self) -> None:
        return


class Heap(Nothing):
    """So many pieces of work; `out` is emptied with the last."""

    def __init__(self, pieces: int, out: list[int]) -> None:
        self.left = pieces
        self._out = out

    def __bool__(self) -> bool:
        return bool(self.left)

    def work(self) -> None:
        self.left -= 1
        if not self.left:
            self._out.clear()


class Alarm:
    """A timer that rings once."""

    def __init__(self, when: float, ring: Callable[[], None]) -> None:
        self.when: float | None = when
        self._ring = ring

    def next_time(self) -> float | None:
        return self.when

    def tick(self, now: float) -> None:
        if self.when is not None and now >= self.when:
            self.when = None
            self._ring()


class Looks:
    """Something to look at; it wants to be looked at again after 50 ms at the latest."""

    def __init__(self, most: int, out: list[int]) -> None:
        self.times: list[float] = []
        self._most = most
        self._out = out

    def look(self, now: float) -> float:
        self.times.append(now)
        if len(self.times) == self._most:
            self._out.clear()
        return 0.05


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(Placing(ANY))
    yield made
    made.close()


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    made = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2)]
    yield made
    for fd in made:
        os.close(fd)


def test_it_calls_whoever_watches_what_is_ready_until_nobody_is_left(
    loop: Loop, eventfds: list[int]
) -> None:
    whom = [1, 2]
    heard: list[int] = []

    def hear(fd: int) -> None:
        os.eventfd_read(fd)
        heard.append(fd)
        whom.pop()

    for fd in eventfds:
        loop.watch(fd, functools.partial(hear, fd))
    loop.run(whom, Nothing())
    assert sorted(heard) == sorted(eventfds)


def test_to_look_whether_somebody_waits_takes_nothing_from_who_is_told_once(
    loop: Loop, eventfds: list[int]
) -> None:
    """A message that comes while something else is done is heard, though it is told of by its edge:
    a restore by CRIU would wait for ever."""
    whom = [1]
    alarm = Alarm(time.monotonic() + 20, whom.clear)
    loop.timers[alarm] = None
    loop.watch(eventfds[0], whom.clear, edge=True)
    assert loop.pressing()
    assert loop.pressing()
    loop.run(whom, Nothing())
    assert alarm.when is not None, "nobody was told"


def test_its_descriptors_may_have_numbers_that_select_does_not_know() -> None:
    """A pager of many clients has thousands; a timer that is due within a millisecond rings."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 1200:
        absent("needs 1,200 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1200), limits[1]))
    with contextlib.ExitStack() as end:
        end.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        first = os.open(os.devnull, os.O_RDONLY)
        end.callback(os.close, first)
        while (more := os.dup(first)) < 1024:
            end.callback(os.close, more)
        end.callback(os.close, more)
        loop = Loop(Placing(ANY))
        end.callback(loop.close)
        whom = [1]
        loop.timers[Alarm(time.monotonic() + 0.0009, whom.clear)] = None
        loop.run(whom, Nothing())
    assert not whom


def test_a_nap_ends_when_something_comes(eventfds: list[int]) -> None:
    nap(eventfds[0], 3600)  # there is something
    os.eventfd_read(eventfds[0])
    before = time.monotonic()
    nap(eventfds[0], 0.0005)
    assert time.monotonic() - before >= 0.0005


def test_a_number_that_is_another_descriptors_by_now_is_not_taken_for_ready(
    loop: Loop, eventfds: list[int]
) -> None:
    """Two are ready; whoever is called first closes the other, whose number is given again."""
    whom = [1]
    wrong: list[int] = []

    def quiet(fd: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            wrong.append(fd)

    def first(fd: int) -> None:
        os.eventfd_read(fd)
        (other,) = set(eventfds) - {fd}
        loop.forget(fd)
        loop.forget(other)
        os.close(other)
        assert os.dup2(empty, other) == other
        loop.watch(other, lambda: quiet(other))
        loop.timers[Alarm(time.monotonic() + 0.02, whom.clear)] = None

    empty = os.eventfd(0, os.EFD_NONBLOCK)
    for fd in eventfds:
        loop.watch(fd, functools.partial(first, fd))
    loop.run(whom, Nothing())
    os.close(empty)
    assert not wrong


def test_a_timer_rings_and_is_forgotten_once_it_waits_for_nothing(loop: Loop) -> None:
    whom = [1]
    loop.timers[Alarm(time.monotonic() + 0.01, lambda: None)] = None
    loop.timers[Alarm(time.monotonic() + 0.03, whom.clear)] = None
    loop.run(whom, Nothing())
    assert len(loop.timers) <= 1  # the first was found to wait for nothing


def test_what_nobody_tells_of_is_looked_at_though_nothing_happens(loop: Loop) -> None:
    whom = [1]
    looks = Looks(3, whom)
    loop.look_at(looks)
    loop.run(whom, Nothing())
    assert len(looks.times) == 3


def test_background_work_is_done_while_nothing_waits(loop: Loop) -> None:
    whom = [1]
    heap = Heap(5, whom)
    loop.run(whom, heap)
    assert not heap.left


def test_where_many_are_ready_it_is_told_when_they_have_been_called(loop: Loop) -> None:
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(9)]
    told: list[str] = []
    whom = [1]

    def hear(fd: int) -> None:
        os.eventfd_read(fd)
        told.append("crowded" if loop.crowded else "alone")

    def called() -> None:
        told.append("called")
        whom.clear()

    loop.called = called
    for fd in fds:
        loop.watch(fd, functools.partial(hear, fd))
    try:
        loop.run(whom, Nothing())
    finally:
        for fd in fds:
            os.close(fd)
    assert told == ["crowded"] * 9 + ["called"]
    assert not loop.crowded
