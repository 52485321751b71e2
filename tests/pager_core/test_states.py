"""Page states: the legal moves, and the count of what is not settled."""

from __future__ import annotations

import mmap
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userfault.pager.core.states import (
    CACHED,
    CLEAN,
    EVICTING,
    FILLING,
    HELD,
    HIDDEN,
    MISSING,
    MOVES,
    NAMES,
    PRESENT,
    SPILLED,
    SPILLING,
    UNSETTLED,
    Pages,
)

ALL = range(len(NAMES))
LEGAL = [(old, new) for old in ALL for new in ALL if new in MOVES[old]]
ILLEGAL = [(old, new) for old in ALL for new in ALL if new not in MOVES[old]]


def named(pair: tuple[int, int]) -> str:
    return f"{NAMES[pair[0]]}-{NAMES[pair[1]]}"


def recount(pages: Pages, which: tuple[int, ...] = UNSETTLED) -> int:
    return sum(bytes(pages.states[0 : pages.count]).count(bytes([state])) for state in which)


@pytest.mark.parametrize("pair", LEGAL, ids=named)
@pytest.mark.parametrize("count", [1, 3])
def test_a_legal_move_is_made_and_counted(pair: tuple[int, int], count: int) -> None:
    old, new = pair
    pages = Pages(bytearray([old]) * 5, 5)

    pages.move(1, count, new)

    held = bytes([old]) + bytes([new]) * count + bytes([old]) * (4 - count)
    assert bytes(pages.states[0:5]) == held
    assert pages.unsettled == recount(pages)
    assert pages.held == recount(pages, HELD)


@pytest.mark.parametrize("pair", ILLEGAL, ids=named)
@pytest.mark.parametrize("count", [1, 3])
def test_an_illegal_move_is_refused_and_names_both_states(
    pair: tuple[int, int], count: int
) -> None:
    old, new = pair
    pages = Pages(bytearray([old]) * 5, 5)

    with pytest.raises(AssertionError, match=f"{NAMES[old]} must not become {NAMES[new]}"):
        pages.move(1, count, new)

    assert bytes(pages.states[0:5]) == bytes([old]) * 5


def leads_to(state: int) -> set[int]:
    return {old for old, news in MOVES.items() if state in news and old != state}


def test_nothing_leads_back_to_the_source_but_an_unfinished_fill_and_what_nobody_wrote() -> None:
    """Once a page was written or dropped, the source must never be seen in it again."""
    assert leads_to(MISSING) == {FILLING, EVICTING, HIDDEN}
    assert leads_to(HIDDEN) == {MISSING, FILLING}
    assert leads_to(EVICTING) == {CLEAN}
    assert leads_to(CLEAN) == {MISSING, FILLING, EVICTING}
    assert leads_to(FILLING) == {MISSING}
    assert not leads_to(CACHED)


def test_what_was_written_leaves_memory_only_by_the_spill_file() -> None:
    assert leads_to(SPILLED) == {SPILLING}
    assert leads_to(SPILLING) == {PRESENT}


def test_states_may_lie_in_shared_memory() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(64)
        with mmap.mmap(file.fileno(), 64) as shared:
            pages = Pages(shared, 64)
            pages.move(7, 2, FILLING)
            assert shared[7:9] == bytes([FILLING]) * 2
            assert pages.runs(0, 64, FILLING) == [(7, 2)]
            assert pages.find(FILLING) == 7
            assert pages.counts()["filling"] == 2


held = st.lists(st.sampled_from(list(ALL)), min_size=1, max_size=24)


@settings(max_examples=200, deadline=None)
@given(held, st.data())
def test_runs_agree_with_looking_at_every_page(states: list[int], data: st.DataObject) -> None:
    pages = Pages(bytearray(states), len(states))
    page = data.draw(st.integers(0, len(states) - 1))
    limit = data.draw(st.integers(1, len(states) + 3))
    state = data.draw(st.sampled_from(list(ALL)))

    up = next((at for at, held in enumerate(states[page:][:limit]) if held != state), None)
    assert pages.run(page, limit, state) == (len(states[page:][:limit]) if up is None else up)
    below = states[: page + 1][::-1][:limit]
    down = next((at for at, held in enumerate(below) if held != state), len(below))
    assert pages.run_down(page, limit, state) == down
    end = min(page + limit, len(states))
    found = [at for first, count in pages.runs(page, end - page, state)
             for at in range(first, first + count)]  # fmt: skip
    assert found == [at for at in range(page, end) if states[at] == state]
    assert pages.unsettled == recount(pages)
