"""What the watchdog does about a fault that waits too long, and for clients that wait no more."""

from __future__ import annotations

import errno

import pytest

from pager_core.simjudge import finale
from pager_core.simparts import HUGETLB_PRIVATE, SHMEM
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from pager_core.watched import (
    DEADLINE_S,
    START,
    core_of,
    fault,
    filled,
    in_streams,
    read_begun,
    told,
)
from userfault.kernel.errors import UsageError
from userfault.pager.core.actions import (
    POISON,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Overdue,
    Report,
    Wake,
)
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import FILLING, MISSING, POISONED, PRESENT

# --- clients that are interrupted ----------------------------------------------------------------


@pytest.mark.parametrize("deadline", [None, DEADLINE_S])
def test_an_interrupted_client_waits_no_more_for_the_page_and_no_other_is_given_up(
    deadline: float | None,
) -> None:
    core = core_of()
    core.watch.deadline_s = deadline
    in_streams(core)
    fault(core, 4)
    core.not_ready(filled(core))
    fetch = read_begun(core, 1.0)
    assert fetch.count > 1
    core.interrupted(2.0)
    poison = filled(core)
    assert (poison.kind, poison.page, poison.count) == (POISON, 4, 1)
    core.done(poison)
    report = core.out.popleft()
    assert isinstance(report, Report)
    assert "interrupted twice" in report.cause
    assert core.pages.states[4] == POISONED
    core.fetched(fetch, memoryview(bytes(fetch.count * PAGE)))
    fills = [action for action in core.out if isinstance(action, Fill)]
    assert not any(fill.page <= 4 < fill.page + fill.count for fill in fills)
    core.interrupted(4.0)
    assert not [action for action in core.out if isinstance(action, Fill) and action.kind == POISON]


def test_an_interrupted_client_without_poison_is_ended() -> None:
    core = core_of(has_poison=False)
    fault(core, 2)
    core.not_ready(filled(core))
    read_begun(core, 1.0)
    core.interrupted(2.0)
    assert isinstance(core.out.popleft(), EndClient)


# --- what is done about it -----------------------------------------------------------------------


def test_by_policy_the_page_is_poisoned_and_the_read_stopped() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    fault(core, 5)  # its read queues behind the one that hangs
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "poison"
    poison = filled(core)
    assert (poison.kind, poison.page) == (POISON, 2)
    assert told(core).page == 5
    core.done(poison)
    assert core.pages.states[2] == POISONED
    assert next(action for action in core.out if isinstance(action, Report)).page == 2
    assert fetch.abandoned
    after = [action for action in core.out if isinstance(action, Fetch)]
    assert [(each.page, each.count) for each in after] == [(5, 1)]
    core.fetched(fetch, memoryview(bytes([2])))  # too late
    assert core.pages.states[2] == POISONED


def test_the_pages_of_a_read_that_lasts_are_read_alone_before_any_is_given_up() -> None:
    core = core_of("poison", source_fetches=True)
    in_streams(core)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "alone"
    assert list(core.out) == [Abandon(fetch.number), Wake(START + 2 * PAGE, 4 * PAGE)]
    assert fetch.abandoned
    core.out.clear()
    fault(core, 2)
    alone = read_begun(core, 105.0)
    assert (alone.page, alone.count) == (2, 1)
    core.tick(105.0)
    core.tick(109.9)
    assert not core.out
    core.tick(110.0)
    assert told(core).answer == "poison"
    core.done(filled(core))
    assert bytes(core.pages.states[2:6]) == bytes([POISONED, MISSING, MISSING, MISSING])


def test_poison_that_meets_eagain_is_dropped_so_that_bytes_that_come_are_not_lost() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    told(core)
    core.failed(filled(core), errno.EAGAIN, 0, 105.0)
    assert not core.deferred
    core.fetched(fetch, memoryview(bytes([2])))
    core.done(filled(core))
    assert core.pages.states[2] == PRESENT
    assert not core.watch.any


def test_poison_that_meets_eagain_comes_again_when_as_long_has_passed() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    told(core)
    core.failed(filled(core), errno.EAGAIN, 0, 105.0)
    core.tick(105.0)
    assert not core.out
    core.tick(110.0)
    told(core)
    core.done(filled(core))
    assert core.pages.states[2] == POISONED


def test_a_page_filled_before_its_deadline_is_let_alone() -> None:
    core = core_of("poison", source_fetches=True)
    fault(core, 2)
    fetch = read_begun(core, 100.0)
    core.tick(100.0)
    core.fetched(fetch, memoryview(bytes([2])))
    core.tick(105.0)  # the fill is on its way
    assert [type(action) for action in core.out] == [Fill]
    core.done(filled(core))
    core.tick(106.0)
    assert not core.out


@pytest.mark.parametrize(
    ("on_overdue", "has_poison"), [("kill", True), ("poison", False)], ids=["policy", "no poison"]
)
def test_the_client_is_ended_by_policy_or_where_there_is_no_poison(
    on_overdue: str, has_poison: bool
) -> None:
    core = core_of(on_overdue, source_fetches=True, has_poison=has_poison)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    assert told(core).answer == "kill"
    ended = core.out.popleft()
    assert isinstance(ended, EndClient)
    assert "read 1 of the source" in ended.message


def test_a_fetch_that_passes_its_own_deadline_at_that_moment_is_told_by_its_next_attempt() -> None:
    core = core_of(source_fetches=True)
    core.ledger.plan = Plan(START, PAGE, Policy(deadline_s=5.0), source_fetches=True)
    fault(core, 2)
    read_begun(core, 100.0)
    core.tick(100.0)
    core.tick(105.0)
    said = [action for action in core.out if isinstance(action, Overdue)]
    assert "attempt 2 of 3" in said[0].waits_for
    assert core.pages.states[2] == FILLING


@pytest.mark.parametrize("kind", [SHMEM, HUGETLB_PRIVATE], ids=lambda kind: kind.name)
def test_threads_of_a_page_given_up_get_sigbus_and_the_others_their_bytes(kind: object) -> None:
    config = Config(
        kind=kind,  # type: ignore[arg-type]
        origin="function",
        background=False,
        window=1,
        fault_deadline=0.5,
        on_overdue="poison",
    )
    world = World(config)
    threads = world.kernel.mms[0].threads
    world.kernel.touch(threads[0], world.kernel.start + 2)
    world.drained()
    while world.step():
        pass
    world.state.now += 0.6  # the read has a second, the fault half of one
    while world.step():
        pass
    assert [said.page for said in world.state.overdue] == [2]
    world.kernel.run(threads[0])
    assert threads[0].last == "SIGBUS"
    finale(world)
    held = world.contexts[0].core.pages.states
    assert bytes(held[0:4]) == bytes([PRESENT, PRESENT, POISONED, PRESENT])
    assert MISSING not in bytes(held[0:8])


@pytest.mark.parametrize("wrong", [{"fault_deadline_s": 0.0}, {"on_overdue": "shrug"}])
def test_a_policy_without_meaning_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Policy(**wrong)  # type: ignore[arg-type]
