"""The parts of the core, each alone: what one promises whatever the others do."""

from __future__ import annotations

import errno

from userfault.pager.core.actions import (
    COPY,
    POISON,
    ZERO,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Finish,
    Report,
    Wake,
)
from userfault.pager.core.filling import Filling
from userfault.pager.core.ledger import Ledger, child_of
from userfault.pager.core.pace import Pace
from userfault.pager.core.pauses import Pauses
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.poverty import MEMORY_RETRIES, Poverty
from userfault.pager.core.reads import Reads
from userfault.pager.core.refusals import Refusals
from userfault.pager.core.states import FILLING, MISSING, POISONED, PRESENT, REMOVED, Pages

PAGE = 4096
START = 1 << 20
POLICY = Policy(background=False, retries=1, fetches=2, deadline_s=5.0)


def ledger_of(count: int = 8, **changes: object) -> Ledger:
    plan = Plan(START, PAGE, POLICY, **changes)  # type: ignore[arg-type]
    return Ledger(plan, Pages(bytearray(count), count))


def refusals_of(ledger: Ledger) -> Refusals:
    return Refusals(ledger, Pauses(ledger), lambda: None)


def fill(ledger: Ledger, page: int, count: int = 1) -> Fill:
    ledger.pages.move(page, count, FILLING)
    ledger.act(COPY, page, count)
    made = ledger.out.pop()
    assert isinstance(made, Fill)
    return made


# --- the ledger ----------------------------------------------------------------------------------


def test_a_fill_is_cut_where_addresses_are() -> None:
    ledger = ledger_of()
    ledger.remap(START + 4 * PAGE, START + 100 * PAGE, 2 * PAGE)
    ledger.out.clear()
    ledger.act(COPY, 3, 4)
    assert [(each.page, each.count, each.address) for each in ledger.out] == [  # type: ignore[union-attr]
        (3, 1, START + 3 * PAGE),
        (4, 2, START + 100 * PAGE),
        (6, 1, START + 6 * PAGE),
    ]


def test_pages_that_are_in_wake_the_waiters_of_every_peer() -> None:
    ledger = ledger_of(shared=True)
    child = child_of(ledger, None)
    ledger.done(fill(ledger, 2))
    assert ledger.pages.states[2] == PRESENT
    assert list(child.out) == [Wake(START + 2 * PAGE, PAGE)]
    assert not ledger.out  # the fill itself woke them


def test_what_one_peer_unmaps_stays_while_another_shows_it() -> None:
    ledger = ledger_of(shared=True)
    child = child_of(ledger, None)
    ledger.unmap(START, START + PAGE)
    assert ledger.pages.states[0] == MISSING
    child.unmap(START, START + PAGE)
    assert ledger.pages.states[0] == REMOVED


def test_the_finish_is_said_once_by_each_peer_and_poisoned_shared_pages_are_kept() -> None:
    for state, ranges in ((PRESENT, ((START, 2 * PAGE),)), (POISONED, ())):
        ledger = ledger_of(2, shared=True)
        child = child_of(ledger, None)
        ledger.pages.move(0, 2, FILLING)
        ledger.pages.move(0, 2, state)
        ledger.finish_if_settled()
        ledger.finish_if_settled()
        for each in (ledger, child):
            assert [action for action in each.out if isinstance(action, Finish)] == [Finish(ranges)]


def test_giving_up_without_poison_ends_the_client() -> None:
    ledger = ledger_of(has_poison=False)
    ledger.poison(0, 1, "why", "cure")
    assert isinstance(ledger.out[-1], EndClient)


# --- the reads -----------------------------------------------------------------------------------


def reads_of(ledger: Ledger) -> Reads:
    return Reads(ledger, Pauses(ledger))


def begun(ledger: Ledger) -> list[int]:
    """The pages whose reads were asked for since the last look."""
    pages = [action.page for action in ledger.out if isinstance(action, Fetch)]
    ledger.out.clear()
    return pages


def test_reads_beyond_the_limit_wait_and_who_is_waited_for_goes_first() -> None:
    ledger = ledger_of()
    reads = reads_of(ledger)
    for page in range(5):
        reads.fetch(page, 1, page == 4)
    first = [action for action in ledger.out if isinstance(action, Fetch)]
    assert begun(ledger) == [0, 4]
    reads.hasten(3)
    for fetch in first:
        reads.fetched(fetch, memoryview(bytes(PAGE)))
    assert begun(ledger) == [3]
    assert reads.queued(2)


def test_a_read_of_several_pages_that_fails_is_made_page_by_page_and_a_single_one_pauses() -> None:
    ledger = ledger_of()
    pauses = Pauses(ledger)
    reads = Reads(ledger, pauses)
    reads.fetch(0, 3, True)
    fetch = ledger.out.popleft()
    assert isinstance(fetch, Fetch)
    reads.failed(fetch, "cause", 100.0)
    assert set(ledger.pages.states[0:3]) == {MISSING}
    assert ledger.out.popleft() == Wake(START, 3 * PAGE)
    reads.fetch(1, 1, True)
    fetch = ledger.out.popleft()
    assert isinstance(fetch, Fetch)
    reads.failed(fetch, "cause", 100.0)
    assert pauses.pages() == [1]
    assert pauses.due(100.0) == []
    assert pauses.due(101.0) == [(1, True)]


def test_a_late_read_is_abandoned_and_its_answer_changes_nothing() -> None:
    ledger = ledger_of()
    reads = reads_of(ledger)
    reads.fetch(0, 2, True)
    fetch = ledger.out.popleft()
    assert isinstance(fetch, Fetch)
    reads.started(fetch, 10.0)
    assert reads.next_time() == 15.0
    reads.tick(15.0)
    assert Abandon(fetch.number) in ledger.out
    ledger.out.clear()
    reads.fetched(fetch, memoryview(bytes(2 * PAGE)))
    assert not ledger.out
    assert ledger.counters.deadlines == 1


# --- the refusals --------------------------------------------------------------------------------


def test_a_fill_put_aside_is_repeated_as_far_as_its_pages_are_wanted() -> None:
    ledger = ledger_of()
    refusals = refusals_of(ledger)
    refusals.failed(fill(ledger, 0, 4), errno.EAGAIN, 0, 0.0)
    assert not ledger.out
    ledger.drop(1, 1)
    ledger.out.clear()
    refusals.put_aside.retry()
    repeated = [(each.page, each.count) for each in ledger.out if isinstance(each, Fill)]
    assert repeated == [(0, 1), (2, 2)]
    assert Wake(START, 4 * PAGE) in ledger.out


def test_addresses_that_moved_make_what_was_put_aside_the_sources_again() -> None:
    ledger = ledger_of()
    refusals = refusals_of(ledger)
    refusals.failed(fill(ledger, 0, 2), errno.EAGAIN, 0, 0.0)
    refusals.put_aside.abandon()
    assert set(ledger.pages.states[0:2]) == {MISSING}
    assert not refusals.deferred
    assert Wake(START, 2 * PAGE) in ledger.out


def test_giving_up_keeps_what_was_put_aside_for_pages_that_are_settled() -> None:
    ledger = ledger_of()
    refusals = refusals_of(ledger)
    refusals.failed(fill(ledger, 0), errno.EAGAIN, 0, 0.0)
    zeros = Fill(POISON, -1, 1, START + 50 * PAGE)
    refusals.failed(zeros, errno.EAGAIN, 0, 0.0)
    refusals.put_aside.release()
    assert list(refusals.deferred) == [zeros]
    assert Wake(START, PAGE) in ledger.out


# --- want of memory ------------------------------------------------------------------------------


def test_a_page_without_memory_pauses_ever_longer_and_is_then_given_up() -> None:
    ledger = ledger_of()
    ledger.pages.move(3, 1, FILLING)
    pauses = Pauses(ledger)
    poverty = Poverty(ledger, pauses)
    until = []
    for _ in range(MEMORY_RETRIES):
        poverty.refused(3, 100.0)
        until.append(pauses.end_of(3))
        pauses.end(3)
        assert not ledger.out
    assert until == sorted({end for end in until if end is not None})
    poverty.refused(3, 100.0)
    report, poison = ledger.out
    assert isinstance(report, Report)
    assert isinstance(poison, Fill)
    assert (report.page, poison.kind, poison.page) == (3, POISON, 3)


# --- how a fill is begun -------------------------------------------------------------------------


class Pairs:
    """A planner that fills two pages at a time, and a reader that notes what it is to read."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int, bool]] = []
        self.along: list[tuple[int, int]] = []

    def fault(self, page: int) -> tuple[int, int]:
        return page, 2

    def minor(self, page: int) -> tuple[int, int]:
        return page, 2

    def fetch(self, page: int, count: int, demand: bool) -> None:
        self.read.append((page, count, demand))


def test_a_fault_fills_what_comes_with_it_from_the_source_that_there_is() -> None:
    file, function, zero = ledger_of(), ledger_of(source_fetches=True), ledger_of(source_zero=True)
    pairs = Pairs()
    for ledger in (file, function, zero):
        Filling(ledger, pairs, pairs, [], Pace(ledger)).around(4)
        assert ledger.counters.around == 1
    assert list(file.out) == [Fill(COPY, 4, 2, START + 4 * PAGE)]
    assert list(zero.out) == [Fill(ZERO, 4, 2, START + 4 * PAGE)]
    assert not function.out
    assert pairs.read == [(4, 2, True)]


def test_what_was_given_up_is_poisoned_whoever_begins_to_fill_it() -> None:
    ledger, pairs = ledger_of(), Pairs()
    ledger.given_up = "asked to"
    Filling(ledger, pairs, pairs, [], Pace(ledger)).start(1, 1, demand=True)
    assert [each.kind for each in ledger.out if isinstance(each, Fill)] == [POISON]


def test_a_pause_that_is_over_begins_nothing_anew_that_was_settled_meanwhile() -> None:
    ledger, pairs = ledger_of(), Pairs()
    filling = Filling(ledger, pairs, pairs, [], Pace(ledger))
    ledger.pages.move(1, 2, FILLING)
    ledger.pages.move(1, 1, PRESENT)
    filling.again(1, demand=False)
    filling.again(2, demand=False)
    assert list(ledger.out) == [Fill(COPY, 2, 1, START + 2 * PAGE, demand=False)]
