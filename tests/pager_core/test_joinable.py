"""Memory that processes may come to map later: what nobody shows is the source's for who does."""

from __future__ import annotations

import pytest

from pager_core.hands import START, core_of, fault, fill_of
from pager_core.simstate import PAGE
from userfault.pager.core.actions import COPY, ZERO, Fetch, Fill, Finish
from userfault.pager.core.core import MappingCore
from userfault.pager.core.segment import Segment
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import HIDDEN, MISSING, PRESENT, REMOVED

ELSEWHERE = 1 << 30
COUNT = 8


def joinable(**changes: object) -> MappingCore:
    return core_of(COUNT, shared=True, joinable=True, **changes)


def unmap(core: MappingCore, page: int, count: int) -> None:
    core.unmap(START + page * PAGE, START + (page + count) * PAGE)


def joined(core: MappingCore, page: int = 0, count: int = COUNT) -> MappingCore:
    """A process comes that shows these pages."""
    end = ELSEWHERE + (page + count) * PAGE
    shown = Segment(ELSEWHERE + page * PAGE, end, page)
    return core.fork(None, Segments.of((shown,), core.plan.shift))


def complete(*cores: MappingCore) -> list[object]:
    """The first is asked for everything, and all do what they can: what was not a fill."""
    cores[0].complete()
    others: list[object] = []
    for _ in range(10 * COUNT):
        for core in cores:
            core.idle_work()
            while core.out:
                action = core.out.popleft()
                if isinstance(action, Fill):
                    core.done(action)
                else:
                    others.append(action)
    return others


@pytest.mark.parametrize("eager", [False, True])
def test_what_all_have_unmapped_is_the_sources_for_who_comes_later(eager: bool) -> None:
    first = joinable()
    unmap(first, 2, 3)
    if eager:
        assert any(isinstance(action, Finish) for action in complete(first))
        assert first.finished
    second = joined(first, page=3)
    assert bytes(first.pages.states[2:5]) == bytes([HIDDEN, MISSING, MISSING])
    assert not second.finished
    second.out.clear()
    second.fault(ELSEWHERE + 3 * PAGE, 0)
    fill = fill_of(second)
    assert fill.kind == COPY
    second.done(fill)
    assert first.pages.states[3] == PRESENT


def test_what_the_last_who_shows_it_has_under_way_is_the_sources_still() -> None:
    first = joinable(source_fetches=True)
    fault(first, 1)
    fetch = first.out.popleft()
    assert isinstance(fetch, Fetch)
    unmap(first, 1, 1)
    first.out.clear()
    first.fetched(fetch, memoryview(bytes(PAGE)))
    assert not first.out
    assert first.pages.states[1] == HIDDEN
    second = joined(first)
    second.fault(ELSEWHERE + PAGE, 0)
    assert isinstance(second.out.popleft(), Fetch)


def test_what_a_process_that_ended_showed_alone_keeps_nobody_waiting() -> None:
    first = joinable()
    second = joined(first)
    unmap(first, 1, 1)
    assert first.pages.states[1] == MISSING
    second.leave()
    assert any(isinstance(action, Finish) for action in complete(first))
    assert first.pages.states[1] == HIDDEN
    third = joined(first)
    third.fault(ELSEWHERE + PAGE, 0)
    assert fill_of(third).kind == COPY


def test_what_was_dropped_before_it_was_unmapped_reads_zero() -> None:
    first = joinable()
    first.remove(START, START + PAGE)
    unmap(first, 0, 2)
    second = joined(first)
    assert bytes(first.pages.states[0:2]) == bytes([REMOVED, MISSING])
    second.out.clear()
    second.fault(ELSEWHERE, 0)
    assert fill_of(second).kind == ZERO


def test_nobody_comes_to_memory_that_no_other_process_may_map() -> None:
    core = core_of(COUNT, shared=True)
    unmap(core, 2, 1)
    assert core.pages.states[2] == REMOVED
