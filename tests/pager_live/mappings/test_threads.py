"""Threads that read: as many as have work at once, used again, bounded where they hang."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from helpers.leaks import descriptors
from helpers.waiting import wait_until
from userfault.pager.core.actions import Fetch
from userfault.pager.core.placing import Placing
from userfault.pager.drivers.mappings.readers import MOST_STUCK, Readers
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.serving.loop import Loop


class Source:
    """Bytes that say where they are from; reads of `held` offsets last until they are let go."""

    def __init__(self) -> None:
        self.held: dict[int, threading.Event] = {}
        self.read_by: list[int] = []  # threads
        self.failing = False

    def hold(self, *offsets: int) -> None:
        for offset in offsets:
            self.held[offset] = threading.Event()

    def read(self, offset: int, length: int, *, urgent: bool, waited: float) -> bytes:
        del urgent, waited
        self.read_by.append(threading.get_native_id())
        if offset in self.held:
            assert self.held[offset].wait(60)
        if self.failing:
            raise ValueError("a bug")
        return offset.to_bytes(8, "little").ljust(length, b"\0")


class Pool:
    """Threads, and the reads of one source by them."""

    def __init__(self) -> None:
        self.loop = Loop(Placing())
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.threads = Threads(self.bell, self.loop)
        self.source = Source()
        self.readers = Readers(self.source, self.threads)
        self._numbers = 0
        self.closed = threading.Event()

    def start(self, offset: int) -> Fetch:
        self._numbers += 1
        fetch = Fetch(self._numbers, offset, 1, True, 0.0)
        self.readers.start(fetch, offset, 16)
        return fetch

    def answer(self) -> int:
        """The next answer's offset."""
        wait_until(lambda: bool(self.readers.answers))
        answer = self.readers.take()
        assert answer.data is not None
        assert int.from_bytes(answer.data[:8], "little") == answer.fetch.page
        return answer.fetch.page

    def abandon(self, *fetches: Fetch) -> None:
        for fetch in fetches:
            fetch.abandoned = True
            self.readers.abandon(fetch)

    def close(self) -> None:
        for held in self.source.held.values():
            held.set()
        self.threads.close(self.closed.set)
        assert self.closed.wait(30)
        os.close(self.bell)
        self.loop.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


def test_reads_that_follow_each_other_have_one_thread(pool: Pool) -> None:
    for offset in range(20):
        pool.start(offset)
        assert pool.answer() == offset
        wait_until(lambda: not pool.threads._under_way())
    assert len(set(pool.source.read_by)) == 1


def test_reads_at_once_have_a_thread_each(pool: Pool) -> None:
    pool.source.hold(*range(5))
    for offset in range(5):
        pool.start(offset)
    wait_until(lambda: len(pool.source.read_by) == 5)
    assert len(set(pool.source.read_by)) == 5
    for offset in reversed(range(5)):
        pool.source.held[offset].set()
        assert pool.answer() == offset


def test_what_nobody_needed_for_a_while_ends(pool: Pool) -> None:
    pool.source.hold(*range(5))
    for offset in range(5):
        pool.start(offset)
    for offset in range(5):
        pool.source.held[offset].set()
    for _ in range(5):
        pool.answer()
    wait_until(lambda: not pool.threads._under_way())
    assert pool.threads.look(100.0) > 0
    assert pool.threads.count == 5  # they had work since the last look
    pool.threads.look(1000.0)
    assert pool.threads.count == 1
    wait_until(lambda: pool.threads._alive == 1)
    pool.start(7)
    assert pool.answer() == 7


def test_a_bug_of_a_source_is_an_answer(pool: Pool) -> None:
    pool.source.failing = True
    pool.start(3)
    wait_until(lambda: bool(pool.readers.answers))
    assert pool.readers.take().cause == "ValueError: a bug"
    pool.source.failing = False
    pool.start(4)
    assert pool.answer() == 4


def test_a_read_that_hangs_delays_no_other(pool: Pool) -> None:
    pool.source.hold(0)
    pool.start(0)
    for offset in range(1, 10):
        pool.start(offset)
        assert pool.answer() == offset
    pool.source.held[0].set()
    assert pool.answer() == 0


def test_a_source_that_hangs_gets_only_so_many_threads(pool: Pool) -> None:
    hung = range(3 * MOST_STUCK)
    pool.source.hold(*hung)
    for offset in hung:
        pool.abandon(pool.start(offset))
    wait_until(lambda: len(pool.source.read_by) == MOST_STUCK)
    assert pool.threads.count == MOST_STUCK
    held = pool.start(1000)
    assert len(pool.source.read_by) == MOST_STUCK

    other = Readers(Source(), pool.threads)  # another source is read as ever
    other.start(Fetch(1, 5, 1, True, 0.0), 5, 16)
    wait_until(lambda: bool(other.answers))
    other.take()

    pool.source.held[0].set()  # one comes back: the read that waited is done
    assert pool.answer() == 0
    assert pool.answer() == held.page


def test_a_read_that_waits_for_a_thread_can_be_abandoned(pool: Pool) -> None:
    pool.source.hold(*range(MOST_STUCK))
    for offset in range(MOST_STUCK):
        pool.abandon(pool.start(offset))
    pool.abandon(pool.start(1000))
    for offset in range(MOST_STUCK):
        pool.source.held[offset].set()
    assert sorted(pool.answer() for _ in range(MOST_STUCK)) == list(range(MOST_STUCK))
    assert not pool.readers.under_way


def test_without_a_thread_a_read_fails(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    pool.start(1)
    assert pool.readers.take().cause == "no thread to read with: can't start new thread"


def test_where_no_more_threads_are_to_be_had_reads_share_those_that_there_are(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.source.hold(0)
    pool.start(0)

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    pool.start(1)
    pool.source.held[0].set()
    assert [pool.answer(), pool.answer()] == [0, 1]


def test_closing_waits_for_nobody_and_leaves_nothing() -> None:
    before = descriptors()
    pool = Pool()
    pool.source.hold(0)
    pool.start(0)
    wait_until(lambda: len(pool.source.read_by) == 1)
    pool.threads.close(pool.closed.set)
    assert not pool.closed.is_set()  # a thread has still to ring the bell
    pool.source.held[0].set()
    assert pool.closed.wait(30)
    os.close(pool.bell)
    pool.loop.close()
    wait_until(lambda: descriptors() == before)
