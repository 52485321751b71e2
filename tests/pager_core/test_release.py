"""A core that is served no more goes at once: a pager collects no cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from userfault.pager.core.core import MappingCore
from userfault.pager.core.lost import LostCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import Pages

PLAN = Plan(start=1 << 32, page_size=4096, policy=Policy())


def whole() -> MappingCore:
    return MappingCore(PLAN, Pages(bytearray(8), 8))


def used() -> MappingCore:
    """With fills asked for, a prefetch, and a child that shares its pages."""
    core = whole()
    core.fault(1 << 32, 0)
    core.want(3, 2)
    core.idle_work()
    core.fork(None).release()
    return core


def lost() -> MappingCore:
    return LostCore(PLAN, "why")


@pytest.mark.parametrize("make", [whole, used, lost])
def test_a_released_core_goes_without_a_collection(make: Callable[[], MappingCore]) -> None:
    gc.collect()
    gc.disable()
    try:
        core = make()
        gone = [weakref.ref(each) for each in (core, core.ledger, core.planner, core.refusals)]
        core.release()
        del core
        assert [each() for each in gone] == [None] * 4
    finally:
        gc.enable()
