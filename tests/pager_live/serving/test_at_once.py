"""One fault, one ioctl; and in a crowd whoever's page has come is woken with the others."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.pages import PAGE
from userfault import Policy
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.states import CLEAN, FILLING, MISSING, PRESENT, Pages
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.at_once import AtOnce
from userfault.uapi.userfaultfd import (
    UFFDIO_COPY,
    UFFDIO_COPY_MODE_DONTWAKE,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_WAKE,
    uffdio_copy,
    uffdio_range,
)

START, SOURCE, FD, COUNT = 1 << 32, 1 << 40, 5, 64


class Kernel:
    """Notes what is asked of it.  `refuses`: with which errno, if it does."""

    def __init__(self) -> None:
        self.copies: list[tuple[int, int, int]] = []  # page of the memory, of the source, mode
        self.woken: list[int] = []
        self.refuses = 0

    def ioctl(self, fd: int, request: int, argument: memoryview) -> None:
        assert fd == FD
        if request == UFFDIO_WAKE:
            start, length = uffdio_range.struct.unpack_from(argument)
            assert length == PAGE
            self.woken.append((start - START) // PAGE)
            return
        assert request == UFFDIO_COPY
        if self.refuses:
            raise OSError(self.refuses, "refused")
        to, source, length, mode, _ = uffdio_copy.struct.unpack_from(argument)
        assert length == PAGE
        self.copies.append(((to - START) // PAGE, (source - SOURCE) // PAGE, mode))


class Stage:
    """A context whose kernel is `Kernel`."""

    def __init__(self, journal: Journal, **changes: Any) -> None:
        plan = Plan(START, PAGE, Policy(background=False, window_bytes=PAGE), **changes)
        self.core = MappingCore(plan, Pages(bytearray(COUNT), COUNT))
        self.kernel = Kernel()
        loop: Any = SimpleNamespace(crowded=False, called=None)
        self.loop = loop
        self.performed = 0
        self.refused: list[tuple[int, int]] = []
        self.at_hand = True
        calls: Any = SimpleNamespace(clock=lambda: 1.0, ioctl=self.kernel.ioctl)
        self.at_once = AtOnce(loop, journal, calls, self, self._refused)
        origin = SimpleNamespace(address=lambda offset, _: SOURCE + offset if self.at_hand else 0)
        served = SimpleNamespace(page_size=PAGE, origin=origin, sound_until=2.0)
        self.context: Any = SimpleNamespace(number=1, fd=FD, core=self.core, served=served)
        self.background: Any = None  # nothing is filled in it here

    def perform(self, context: object) -> None:
        assert context is self.context
        self.performed += 1

    def _refused(self, _context: object, fill: Any, code: int, done: int) -> None:
        assert not done
        self.refused.append((fill.page, code))

    def fault(self, page: int) -> None:
        self.at_once.fault(self.context, START + page * PAGE, 0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    journal = Journal.create()
    yield Stage(journal)
    journal.close()


def test_whoever_is_alone_is_woken_by_the_fill(stage: Stage) -> None:
    stage.fault(3)
    assert stage.kernel.copies == [(3, 3, 0)]
    assert stage.kernel.woken == []
    assert stage.core.pages.states[3] == PRESENT
    assert stage.performed == 0


def test_under_a_budget_pages_appear_with_their_protection() -> None:
    with contextlib.closing(Journal.create()) as journal:
        stage = Stage(journal, resident=COUNT, evicts=True, shared=True)
        stage.fault(3)
        fill = journal.last_fill()
        assert stage.kernel.copies == [(3, 3, UFFDIO_COPY_MODE_WP)]
        assert fill.protect  # whoever takes over knows it
        assert stage.core.pages.states[3] == CLEAN
        stage.loop.crowded = True
        stage.fault(5)
        assert stage.kernel.copies[1:] == [(5, 5, UFFDIO_COPY_MODE_DONTWAKE | UFFDIO_COPY_MODE_WP)]
        stage.loop.called()
        assert stage.kernel.woken == [5]


def test_of_a_crowd_all_are_woken_by_the_end_of_the_round(stage: Stage) -> None:
    stage.loop.crowded = True
    for page in (7, 3, 5):
        stage.fault(page)
    assert stage.kernel.copies == [(page, page, UFFDIO_COPY_MODE_DONTWAKE) for page in (7, 3, 5)]
    assert stage.kernel.woken == []
    stage.loop.called()
    assert stage.kernel.woken == [7, 3, 5]
    stage.loop.called()
    assert stage.kernel.woken == [7, 3, 5]


def test_nobody_sleeps_for_more_than_fifteen_others(stage: Stage) -> None:
    stage.loop.crowded = True
    for page in range(40):
        stage.fault(page)
    assert stage.kernel.woken == [*range(32)]
    stage.loop.called()
    assert stage.kernel.woken == [*range(40)]


def test_what_is_refused_is_nobody_s_page_yet(stage: Stage) -> None:
    stage.loop.crowded = True
    stage.kernel.refuses = errno.EAGAIN
    stage.fault(3)
    stage.loop.called()
    assert stage.refused == [(3, errno.EAGAIN)]
    assert stage.kernel.woken == []
    assert stage.core.pages.states[3] == FILLING
    assert stage.performed == 1  # what the core asks for then, and waits for


def test_a_source_that_is_not_at_hand_or_may_have_changed_is_looked_at_first(stage: Stage) -> None:
    stage.at_hand = False
    stage.fault(3)
    stage.at_hand, stage.context.served.sound_until = True, 0.5
    stage.fault(4)
    assert stage.kernel.copies == []
    assert stage.performed == 2
    assert [stage.core.pages.states[page] for page in (3, 4, 5)] == [FILLING, FILLING, MISSING]
