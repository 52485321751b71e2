"""A mapping that was given up for an error: no byte of it is made up, and nobody is left asleep."""

from __future__ import annotations

import errno

import pytest

from userfault.pager.core import recovery
from userfault.pager.core.actions import POISON, EndClient, Fill, Finish, Wake, WakeAll
from userfault.pager.core.lost import LostCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.recorded import FillRecord

PAGE = 4096
START = 1 << 32


def lost(*, has_poison: bool = True) -> LostCore:
    plan = Plan(start=START, page_size=PAGE, policy=Policy(), has_poison=has_poison)
    return LostCore(plan, "why")


@pytest.mark.parametrize("flags", [0, 1, 4])  # missing, written to, minor
def test_every_fault_is_answered_with_poison(flags: int) -> None:
    core = lost()
    core.batch()
    core.fault(START + 3 * PAGE + 5, flags)
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    assert (fill.kind, fill.address, fill.count) == (POISON, START + 3 * PAGE, 1)
    core.done(fill)
    assert core.counters.poisoned == 1
    assert not core.out


def test_without_poison_the_client_is_ended() -> None:
    core = lost(has_poison=False)
    core.fault(START, 0)
    assert list(core.out) == [EndClient("why")]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EEXIST, errno.ENOENT, errno.ENOMEM])
def test_whoever_waits_for_a_page_that_cannot_be_poisoned_faults_again(code: int) -> None:
    core = lost()
    core.failed(Fill(POISON, -1, 1, START), code, 0, 0.0)
    assert list(core.out) == [Wake(START, PAGE)]


def test_an_ended_process_is_let_go_of() -> None:
    core = lost()
    core.failed(Fill(POISON, -1, 1, START), errno.ESRCH, 0, 0.0)
    assert list(core.out) == [Finish((), owner_gone=True)]


def test_nothing_makes_it_finish_or_fill() -> None:
    core = lost()
    recovery.settle(core, FillRecord(1, 0, 0, 1, PAGE))
    core.remove(START, START + PAGE)
    core.complete()
    core.give_up("another", "")
    core.want(0, 5)
    recovery.resume([core])
    core.tick(1e9)
    assert list(core.out) == [WakeAll()]
    assert not core.finished
    assert not core.eager
    assert core.idle_work() == 0
    assert core.next_time() is None
    assert core.given_up == "why"


def test_events_let_whoever_waits_go_on_and_children_are_lost_too() -> None:
    core = lost()
    core.unmap(START, START + PAGE)
    core.remap(START, START + 9 * PAGE, 2 * PAGE)
    assert list(core.out) == [Wake(START, PAGE), Wake(START, 2 * PAGE)]
    child = core.fork()
    assert isinstance(child, LostCore)
    child.fault(START, 0)
    assert isinstance(child.out.popleft(), Fill)
