"""How mappings share the work in flight and the background: nobody starves, nobody has it all."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userfault.pager.core.shares import Shares
from userfault.pager.core.turns import Turns


@dataclass(eq=False)
class Read:
    """A read of `mapping`."""

    mapping: int
    demand: bool = True
    abandoned: bool = False


def asked(shares: Shares[Read], mapping: int, count: int = 1, *, demand: bool = True) -> list[Read]:
    reads = [Read(mapping, demand) for _ in range(count)]
    for read in reads:
        shares.ask(mapping, read)
    return reads


def granted(shares: Shares[Read]) -> list[Read]:
    """All that get a place now."""
    found = []
    while (read := shares.grant()) is not None:
        found.append(read)
    return found


def test_free_places_are_given_at_once() -> None:
    shares: Shares[Read] = Shares(32)
    reads = asked(shares, 1)
    assert granted(shares) == reads
    assert granted(shares) == []


@given(
    limit=st.integers(1, 12),
    steps=st.lists(
        st.tuples(
            st.sampled_from(("ask", "ask", "ask", "end", "end", "abandon", "hurry", "forget")),
            st.integers(0, 5),
            st.booleans(),
        ),
        max_size=80,
    ),
)
def test_whatever_is_asked_the_rules_hold(limit: int, steps: list[tuple[str, int, bool]]) -> None:
    shares: Shares[Read] = Shares(limit)
    waiting: list[Read] = []
    running: list[Read] = []
    spare = limit // 4
    ahead = limit // 2 if spare else limit
    for name, number, demand in steps:
        if name == "ask":
            waiting += asked(shares, number, demand=demand)
        elif name == "end" and running:
            shares.end(running.pop(number % len(running)))
        elif name == "abandon" and waiting:
            waiting.pop(number % len(waiting)).abandoned = True
        elif name == "hurry" and waiting:
            waiting[number % len(waiting)].demand = True
        elif name == "forget":
            shares.forget(number, shares.reads_of(number))
            waiting = [read for read in waiting if read.mapping != number]
            running = [read for read in running if read.mapping != number]
        while (read := shares.grant()) is not None:
            held = Counter(each.mapping for each in running)
            waiting.remove(read)
            if not read.demand:
                assert sum(not each.demand for each in running) < ahead
            if len(running) >= limit - spare:
                assert read.demand
                assert not held[read.mapping]
            rivals = [each for each in waiting if each.demand == read.demand]
            assert all(held[read.mapping] <= held[each.mapping] for each in rivals)
            running.append(read)
            assert len(running) <= limit
        held = Counter(each.mapping for each in running)
        assert shares.running == len(running)
        # nothing waits that could go
        if len(running) < limit - spare:
            assert not any(each.demand for each in waiting)
            in_advance = sum(not each.demand for each in running)
            assert not waiting or in_advance >= ahead
        elif len(running) < limit:
            assert all(held[each.mapping] or not each.demand for each in waiting)


def test_a_demand_goes_before_what_was_asked_in_advance() -> None:
    shares: Shares[Read] = Shares(1)
    (running,) = asked(shares, 1)
    assert shares.grant() is running
    asked(shares, 2, demand=False)
    (urgent,) = asked(shares, 3)
    shares.end(running)
    assert shares.grant() is urgent


def test_a_read_that_a_thread_comes_to_wait_for_is_urgent_from_then_on() -> None:
    shares: Shares[Read] = Shares(1)
    (running,) = asked(shares, 1)
    assert shares.grant() is running
    first, second = asked(shares, 2, 2, demand=False)
    second.demand = True
    shares.end(running)
    assert shares.grant() is second
    shares.end(second)
    assert shares.grant() is first


def test_sources_that_hang_leave_a_place_for_the_first_fault_of_every_other() -> None:
    shares: Shares[Read] = Shares(32)
    for mapping in range(8):
        asked(shares, mapping, 40)
    assert len(granted(shares)) == 24
    assert Counter(read.mapping for read in shares_running(shares)) == dict.fromkeys(range(8), 3)
    for mapping in range(100, 108):
        (read,) = asked(shares, mapping)
        assert granted(shares) == [read]


def test_reads_in_advance_that_hang_leave_places_for_faults_of_the_same_mappings() -> None:
    shares: Shares[Read] = Shares(32)
    for mapping in range(16):
        asked(shares, mapping, 3, demand=False)
    assert len(granted(shares)) == 16
    for mapping in range(8):
        (read,) = asked(shares, mapping)
        assert granted(shares) == [read]


def shares_running(shares: Shares[Read]) -> list[Read]:
    return [read for _, read in shares._running.values()]


def test_64_mappings_get_on_evenly_while_one_asks_for_more_than_all_others() -> None:
    shares: Shares[Read] = Shares(32)
    dice = random.Random(1)
    running: list[Read] = []
    served: Counter[int] = Counter()
    asked(shares, 0, 1000)
    for mapping in range(1, 64):
        asked(shares, mapping, 20)
    while min(served[mapping] for mapping in range(64)) < 10:
        running += granted(shares)
        ended = running.pop(dice.randrange(len(running)))
        shares.end(ended)
        served[ended.mapping] += 1
        assert served[0] <= 20
    assert max(served.values()) <= 20


def test_faults_that_never_cease_do_not_hold_up_background_reads_for_ever() -> None:
    shares: Shares[Read] = Shares(1)
    asked(shares, 1, demand=False)
    order = []
    for _ in range(20):
        asked(shares, 2)
        read = shares.grant()
        assert read is not None
        order.append(read.demand)
        shares.end(read)
    assert order.index(False) == 16


def test_reads_forgotten_free_their_places() -> None:
    shares: Shares[Read] = Shares(1)
    asked(shares, 1, 2)
    assert shares.grant() is not None
    (other,) = asked(shares, 2)
    assert shares.grant() is None
    shares.forget(1, shares.reads_of(1))
    assert shares.grant() is other
    assert shares.waiting == 0


def test_an_end_told_twice_counts_once() -> None:
    shares: Shares[Read] = Shares(2)
    read, other = asked(shares, 1, 2)
    granted(shares)
    shares.end(read)
    shares.end(read)
    assert shares.running == 1
    shares.end(other)
    assert shares.running == 0


# --- background ----------------------------------------------------------------------------------


def test_background_work_goes_round() -> None:
    turns: Turns[str] = Turns()
    for name in "abc":
        turns.add(name)
    order = ""
    for _ in range(7):
        found = turns.next()
        assert found is not None
        order += found[0]
        turns.add(found[0])
    assert order == "abcabca"


def test_who_has_nothing_to_do_has_no_turn() -> None:
    turns: Turns[str] = Turns()
    turns.add("a")
    turns.add("b")
    turns.discard("a")
    assert turns.next() == ("b", False)
    assert turns.next() is None
    assert not turns


def test_faults_of_one_mapping_are_heard_of_by_all_once() -> None:
    turns: Turns[str] = Turns()
    turns.add("a")
    turns.add("b")
    assert [turns.next(), turns.next()] == [("a", False), ("b", False)]
    turns.disturbed()
    for noisy in (True, False):
        turns.add("a")
        turns.add("b")
        assert [turns.next(), turns.next()] == [("a", noisy), ("b", noisy)]


def test_a_chunk_is_due_after_many_rounds_of_faults() -> None:
    turns: Turns[str] = Turns()
    turns.add("a")
    for _ in range(2):
        assert [turns.disturbed() for _ in range(256)] == [False] * 255 + [True]
        assert turns.next() is not None
        turns.add("a")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_places_are_all_to_be_had(limit: int) -> None:
    shares: Shares[Read] = Shares(limit)
    asked(shares, 1, 10, demand=False)
    assert len(granted(shares)) == limit
