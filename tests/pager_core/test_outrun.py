"""A thread that reads in order and is faster than what is read ahead for it keeps its stream.

Otherwise to read ahead for it would cost it faults: it begins anew with a page each time.
"""

from __future__ import annotations

import pytest

from pager_core.test_residency import perform
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import MISSING, REMOVED, Pages

START, PAGE, COUNT = 1 << 30, 4096, 1024
TOUCHED = 600
STRETCH = 16  # pages that come together
POLICY = Policy(background=False, window_bytes=64 * PAGE, chunk_bytes=4 * PAGE)


class Stretches:
    """A layout of nothing but stretches of bytes."""

    turns, zero_turns = COUNT // STRETCH, 0

    def at(self, page: int) -> tuple[int, int, bool]:
        first = page - page % STRETCH
        return first, first + STRETCH, False

    def turn(self, number: int) -> tuple[int, int]:
        return number * STRETCH, STRETCH

    def zero_turn(self, number: int) -> tuple[int, int]:
        raise IndexError(number)

    def company(self, page: int) -> tuple[int, int]:
        return page // STRETCH, page // STRETCH + 1


def plan(*, known: bool) -> Plan:
    """Either each fault brings a stretch, and the rest of a window is read ahead; or there is
    little room, so that a fault brings no more than a stream will want."""
    if known:
        return Plan(START, PAGE, POLICY, layout=Stretches())
    return Plan(START, PAGE, POLICY, shared=True, resident=100, evicts=True)


def faults(steps: int, *, known: bool, up: bool) -> int:
    """Of a thread that touches pages in order, while `steps` pieces are read ahead after each."""
    core = MappingCore(plan(known=known), Pages(bytearray(COUNT), COUNT))
    raised = 0
    for page in range(TOUCHED) if up else range(COUNT - 1, COUNT - 1 - TOUCHED, -1):
        if core.pages.states[page] not in (MISSING, REMOVED):
            continue
        raised += 1
        core.batch()
        core.fault(START + page * PAGE, 0)
        perform(core)
        for _ in range(steps):
            if core.idle_work():
                perform(core)
    return raised


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("known", [True, False], ids=["known source", "little room"])
def test_what_is_read_ahead_in_part_costs_no_faults(known: bool, up: bool) -> None:
    """Before, the window that was read ahead in part was no stream's any more."""
    without = faults(0, known=known, up=up)
    for steps in (1, 2, 3):
        assert faults(steps, known=known, up=up) <= without


def test_all_of_a_window_is_read_ahead_though_it_is_longer_than_a_piece() -> None:
    """Each stretch is four pieces."""
    assert faults(1000, known=True, up=True) <= 2 * TOUCHED // 64
