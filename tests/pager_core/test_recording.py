"""A recording notes each first touch, and fills nothing that would hide one."""

from __future__ import annotations

from pager_core.hands import core_of, fault, fill_of
from userfault.pager.core.actions import COPY
from userfault.pager.core.core import MappingCore
from userfault.pager.core.states import MISSING, PRESENT
from userfault.pager.core.touches import UNTOUCHED, Touches

COUNT = 64


def recorded(count: int = COUNT) -> tuple[MappingCore, Touches]:
    touches = Touches(bytearray(count))
    core = core_of(count, touches=touches)
    core.planner.background = True
    return core, touches


def touch(core: MappingCore, page: int) -> tuple[int, int]:
    """A fault on `page`, served: what was filled."""
    core.batch()
    fault(core, page)
    fill = fill_of(core)
    core.done(fill)
    return fill.page, fill.count


def noted(touches: Touches) -> dict[int, int]:
    return {page: touches.held[page] for page in range(COUNT) if touches.held[page] != UNTOUCHED}


def test_a_touch_brings_its_page_alone_and_is_noted_with_its_time() -> None:
    core, touches = recorded()
    assert touch(core, 7) == (7, 1)
    touches.now = 3
    assert touch(core, 40) == (40, 1)
    assert noted(touches) == {7: 1, 40: 4}


def test_nothing_is_filled_in_the_background_until_it_is_over() -> None:
    core, touches = recorded()
    touch(core, 7)
    assert not core.eager
    assert core.idle_work() == 0
    touches.over = True
    assert core.idle_work() > 0


def test_a_stream_has_small_windows_and_notes_what_it_went_past() -> None:
    core, touches = recorded()
    page, filled = 0, []
    while page < 32:
        _, count = touch(core, page)
        filled.append(count)
        page += count
    assert filled == [1, 2, 4, 8, 8, 8, 8][: len(filled)]
    # Of the last window nobody knows but that its first page was touched.
    last = page - filled[-1]
    assert sorted(noted(touches)) == list(range(last + 1))


def test_when_it_is_over_it_is_as_if_it_had_never_been() -> None:
    core, touches = recorded(8)
    touches.over = True
    plain = core_of(8)
    plain.planner.background = True
    while core.eager:
        assert core.idle_work() == plain.idle_work()
        one, other = fill_of(core), fill_of(plain)
        assert (one.kind, one.page, one.count) == (other.kind, other.page, other.count)
        core.done(one)
        plain.done(other)
    assert touches.noted == 0


def test_what_was_asked_for_comes_at_once_and_is_of_the_set() -> None:
    core, touches = recorded()
    core.want(10, 3)
    found: list[int] = []
    while core.eager and core.idle_work():
        fill = fill_of(core)
        assert (fill.kind, fill.demand) == (COPY, False)
        core.done(fill)
        found += range(fill.page, fill.page + fill.count)
    assert found == [10, 11, 12]
    assert sorted(noted(touches)) == found
    assert core.pages.states[13] == MISSING


def test_a_child_of_a_fork_notes_beside_its_parent() -> None:
    core, touches = recorded()
    touch(core, 1)
    child = core.fork()
    child.batch()
    fault(child, 2)
    child.done(fill_of(child))
    assert sorted(noted(touches)) == [1, 2]
    assert child.pages.states[2] == PRESENT
