"""A fault that is answered without an action leaves what the action would have left."""

from __future__ import annotations

import random

import pytest

from pager_core.hands import START, fill_of
from pager_core.simstate import PAGE
from userfault.pager.core.actions import COPY, Evict, Fill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.recorded import FillRecord
from userfault.pager.core.recovery import settle
from userfault.pager.core.states import CLEAN, FILLING, MISSING, PRESENT, Pages
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as MINOR
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_WRITE as WRITE

COUNT = 512


def core_of(window: int = 1, count: int = COUNT, **changes: object) -> MappingCore:
    policy = Policy(background=False, window_bytes=window * PAGE, fault_deadline_s=None)
    plan = Plan(START, PAGE, policy, **changes)  # type: ignore[arg-type]
    return MappingCore(plan, Pages(bytearray(count), count))


def answer(core: MappingCore, page: int) -> bool:
    """As a driver does that answers at once where it may."""
    run = core.quick.asks(START + page * PAGE, 0)
    if run is None:
        return False
    core.quick.copied(*run)
    return True


def perform(core: MappingCore, page: int) -> None:
    core.fault(START + page * PAGE, 0)
    drain(core)


def drain(core: MappingCore) -> None:
    while core.out:
        action = core.out.popleft()
        if isinstance(action, Fill):
            core.done(action)


@pytest.mark.parametrize("window", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_it_comes_to_the_same_as_an_action(window: int, seed: int) -> None:
    dice = random.Random(seed)
    touches = [dice.randrange(COUNT) for _ in range(3 * COUNT)]
    touches += range(COUNT)
    quick, acted = core_of(window), core_of(window)
    for page in touches:
        if quick.pages.states[page] == MISSING:
            for core in (quick, acted):
                core.batch()
            assert answer(quick, page)
            drain(quick)
            perform(acted, page)
    assert quick.pages.counts() == acted.pages.counts()
    assert quick.pages.counts()["present"] == COUNT
    assert quick.counters == acted.counters
    assert (quick.pages.unsettled, quick.pages.held) == (0, COUNT)
    assert quick.finished
    assert acted.finished


def test_a_fault_on_the_page_of_another_of_its_batch_is_answered_by_that_one() -> None:
    core = core_of()
    core.batch()
    assert answer(core, 3)
    assert not answer(core, 3)
    core.fault(START + 3 * PAGE, 0)
    assert not core.out
    assert core.counters.duplicates == 1


def test_what_else_is_known_of_a_page_is_a_matter_for_the_core() -> None:
    core = core_of()
    assert core.quick.asks(START + 3 * PAGE, MINOR) is None
    assert core.quick.asks(START - PAGE, 0) is None
    core.remove(START, START + PAGE)
    assert core.quick.asks(START, 0) is None  # it reads zero
    core.remap(START, 2 * START, PAGE)
    assert core.quick.asks(START + 3 * PAGE, 0) is None  # addresses are not in one piece any more
    assert core.counters.faults == 0


@pytest.mark.parametrize("changes", [{"source_zero": True}, {"source_fetches": True}])
def test_a_source_that_is_not_mapped_is_a_matter_for_the_core(changes: dict[str, bool]) -> None:
    assert core_of(**changes).quick.asks(START, 0) is None


def test_where_writes_are_tracked_a_page_is_filling_before_its_bytes_are_seen() -> None:
    """A write that comes at once would not be told: a page that is MISSING can have none."""
    core = core_of(tracked=True)
    assert core.quick.asks(START, 0) is None
    core.fault(START, 0)
    assert core.pages.states[0] == FILLING


def test_under_a_budget_a_page_is_protected_and_others_go_for_it() -> None:
    core = core_of(resident=128, evicts=True, shared=True)
    assert core.quick.protect
    assert core.quick.refused(0, 1).protect  # and so it is when it is filled once more
    core = core_of(resident=128, evicts=True, shared=True)
    for page in range(0, 260, 2):
        core.batch()
        assert answer(core, page)
        assert core.pages.states[page] == CLEAN
    assert any(isinstance(action, Evict) for action in core.out)


def test_under_a_budget_who_writes_is_let_write_at_once() -> None:
    core = core_of(resident=128, evicts=True, shared=True)
    assert core.quick.asks(START, WRITE) is None
    core.fault(START, WRITE)
    assert not fill_of(core).protect


def test_a_worker_killed_before_a_page_is_clean_leaves_one_that_counts_as_written() -> None:
    core = core_of(resident=128, evicts=True, shared=True)
    assert core.quick.asks(START, 0) == (0, 1)
    settle(core, FillRecord(1, COPY, 0, 1, PAGE, protect=True))
    assert core.pages.states[0] == PRESENT


def test_a_mapping_that_shares_its_pages_wakes_the_others(
    two: tuple[MappingCore, MappingCore],
) -> None:
    parent, child = two
    assert parent.quick.asks(START, 0) is None
    assert child.quick.asks(START, 0) is None


@pytest.fixture
def two() -> tuple[MappingCore, MappingCore]:
    parent = core_of(shared=True)
    return parent, parent.fork(None)


def test_a_fill_that_the_kernel_refuses_is_one_like_any_other() -> None:
    core = core_of(window=4)
    run = core.quick.asks(START + 5 * PAGE, 0)
    assert run == (5, 1)
    fill = core.quick.refused(*run)
    assert (fill.kind, fill.page, fill.count, fill.demand) == (COPY, 5, 1, True)
    assert core.pages.states[5] == FILLING
    core.failed(fill, 11, 0, 0.0)  # EAGAIN
    assert list(core.deferred) == [fill]
    assert core.quick.asks(START + 9 * PAGE, 0) is None  # somebody waits: see `Watch`
    core.retry()
    core.done(fill_of(core))
    assert core.pages.states[5] == PRESENT


def test_a_source_that_is_not_at_hand_makes_an_action() -> None:
    core = core_of()
    run = core.quick.asks(START + 5 * PAGE, 0)
    assert run is not None
    core.quick.put_off(*run)
    assert fill_of(core).page == 5
    assert core.pages.states[5] == FILLING
