"""Which pages go when more is in than may be, and what is recorded before they do."""

from __future__ import annotations

import errno

import pytest

from userfault.pager.core import recovery
from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    UNPROTECT,
    UNSPILL,
    ZERO,
    Action,
    Evict,
    Fill,
    Spill,
    Wake,
    WakeAll,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.recorded import FillRecord
from userfault.pager.core.states import (
    CLEAN,
    EVICTING,
    FILLING,
    MISSING,
    NAMES,
    PRESENT,
    REMOVED,
    SPILLED,
    SPILLING,
    Pages,
)
from userfault.uapi.userfaultfd import (
    UFFD_PAGEFAULT_FLAG_MINOR,
    UFFD_PAGEFAULT_FLAG_WP,
    UFFD_PAGEFAULT_FLAG_WRITE,
)

START, PAGE = 0x10000000, 4096
WRITE = UFFD_PAGEFAULT_FLAG_WRITE
PROTECTED = UFFD_PAGEFAULT_FLAG_WP | WRITE
QUIET = Policy(background=False, window_bytes=1, chunk_bytes=1)


def core_of(count: int, limit: int, *, spills: bool = False) -> MappingCore:
    plan = Plan(START, PAGE, QUIET, shared=True, resident=limit, evicts=True, spills=spills)
    return MappingCore(plan, Pages(bytearray(count), count))


def perform(core: MappingCore) -> list[Action]:
    """Do what the core asks for, as a driver would; what it was."""
    done = []
    while core.out:
        action = core.out.popleft()
        done.append(action)
        if isinstance(action, Fill):
            core.done(action)
        elif isinstance(action, Evict):
            core.residency.evicted(core.ledger, action)
        elif isinstance(action, Spill):
            core.residency.spilled(core.ledger, action)
            core.residency.out(core.ledger, action)
    return done


def touch(core: MappingCore, page: int, flags: int = 0) -> list[Action]:
    core.batch()
    core.fault(START + page * PAGE, flags)
    return perform(core)


def write(core: MappingCore, page: int) -> None:
    if core.pages.states[page] != PRESENT:
        touch(core, page, PROTECTED if core.pages.states[page] == CLEAN else WRITE)


def state(core: MappingCore, page: int) -> str:
    return NAMES[core.pages.states[page]]


def test_what_is_filled_is_protected_and_clean() -> None:
    core = core_of(8, 4)
    (fill,) = touch(core, 3)
    assert isinstance(fill, Fill)
    assert (fill.kind, fill.protect) == (COPY, True)
    assert state(core, 3) == "clean"


def test_who_wants_to_write_is_let_at_once() -> None:
    core = core_of(8, 4)
    (fill,) = touch(core, 3, WRITE)
    assert isinstance(fill, Fill)
    assert not fill.protect
    assert state(core, 3) == "present"


def test_a_page_counts_as_written_before_its_protection_is_lifted() -> None:
    core = core_of(8, 4)
    touch(core, 3)
    core.batch()
    core.fault(START + 3 * PAGE, PROTECTED)
    assert state(core, 3) == "present"
    assert [action.kind for action in core.out if isinstance(action, Fill)] == [UNPROTECT]


def test_the_oldest_goes_and_is_evicting_before_it_does() -> None:
    core = core_of(256, 64)
    for page in range(0, 128, 2):
        touch(core, page)
    core.fault(START + 129 * PAGE, 0)
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    core.done(fill)
    evict = core.out[0]
    assert isinstance(evict, Evict)
    assert evict.page == 0
    assert state(core, 0) == "evicting"
    perform(core)
    assert state(core, 0) == "missing"
    assert core.pages.held <= 64


def test_what_was_written_does_not_go() -> None:
    core = core_of(256, 64)
    for page in range(0, 64, 2):
        write(core, page)
    for page in range(64, 256):
        touch(core, page)
    assert all(state(core, page) == "present" for page in range(0, 64, 2))
    assert core.counters.evicted > 0


def test_the_newest_stay_however_much_was_written() -> None:
    core = core_of(256, 64)
    for page in range(100):
        write(core, page)
    for page in range(100, 200):
        touch(core, page)
        assert state(core, page) == "clean"


def test_what_streams_have_left_behind_goes_before_what_is_older() -> None:
    core = core_of(1024, 256)
    scattered = range(0, 384, 4)
    for page in scattered:
        touch(core, page)
    for page in range(400, 1000):
        touch(core, page)
    assert all(state(core, page) == "clean" for page in scattered)


def test_the_page_that_a_thread_came_for_last_does_not_go_for_itself() -> None:
    core = core_of(1024, 64)
    for page in range(200):  # a stream, of which much is left
        touch(core, page)
    for page in range(300, 1000, 7):
        touch(core, page)
        assert state(core, page) == "clean"


def test_what_comes_back_soon_goes_last() -> None:
    core = core_of(4096, 256)
    hot = range(0, 64, 4)
    for page in hot:
        touch(core, page)
    for page in range(100, 1100, 4):  # they go
        touch(core, page)
    assert {state(core, page) for page in hot} == {"missing"}
    for page in hot:
        touch(core, page)
    assert core.counters.refaults >= len(hot)
    for page in range(1200, 3200, 4):
        touch(core, page)
    assert {state(core, page) for page in hot} == {"clean"}


def test_nothing_comes_in_unasked_once_pages_go() -> None:
    plan = Plan(START, PAGE, Policy(), shared=True, resident=64, evicts=True)
    core = MappingCore(plan, Pages(bytearray(1024), 1024))
    while core.idle_work():
        perform(core)
    assert core.pages.held <= 64
    for page in range(512, 600):
        touch(core, page)
    while core.idle_work():  # what the stream wants next
        perform(core)
    assert core.pages.find(FILLING) < 0
    assert core.pages.find(CLEAN, 700) < 0
    core.want(900, 4)
    assert core.idle_work() == 4


def test_it_is_never_finished() -> None:
    core = core_of(8, 64)
    for page in range(8):
        touch(core, page)
    assert not core.finished


def test_memory_of_which_no_page_can_be_taken_out_is_filled_to_the_limit_and_further_if_asked() -> (
    None
):
    plan = Plan(START, PAGE, Policy(), resident=64)
    core = MappingCore(plan, Pages(bytearray(256), 256))
    while core.idle_work():
        perform(core)
    assert core.pages.held == 64
    core.complete()
    while core.idle_work():
        perform(core)
    assert core.finished


# --- spilling ------------------------------------------------------------------------------------


def test_what_was_written_is_spilled_and_comes_back_written() -> None:
    core = core_of(256, 64, spills=True)
    for page in range(200):
        write(core, page)
    assert state(core, 0) == "spilled"
    assert core.pages.held <= 64 + 32
    fills = [action for action in touch(core, 0) if isinstance(action, Fill)]
    assert [fill.kind for fill in fills] == [UNSPILL]
    assert state(core, 0) == "present"


def test_what_cannot_be_spilled_stays_and_is_tried_again_later() -> None:
    core = core_of(4096, 64, spills=True)
    tried = 0
    for page in range(3000):
        core.batch()
        core.fault(START + page * PAGE, WRITE)
        while core.out:
            action = core.out.popleft()
            if isinstance(action, Fill):
                core.done(action)
            elif isinstance(action, Spill):
                tried += 1
                core.residency.not_spilled(core.ledger, action, "the disk is full")
    assert core.residency.spill_failed == "the disk is full"
    assert 2 <= tried < 1000
    assert core.pages.counts()["present"] == 3000


# --- what happens meanwhile ----------------------------------------------------------------------


def test_a_minor_fault_of_a_page_that_has_gone_is_the_sources() -> None:
    """Its page was unmapped and not yet out of the file when the fault was raised."""
    core = core_of(8, 4)
    (fill,) = touch(core, 3, UFFD_PAGEFAULT_FLAG_MINOR)
    assert isinstance(fill, Fill)
    assert fill.kind == COPY


@pytest.mark.parametrize("kind", [ZERO, CONTINUE])
def test_a_fill_that_was_put_aside_does_not_hit_a_page_that_has_gone_since(kind: int) -> None:
    core = core_of(8, 4)
    fill = Fill(kind, 3, 1, START + 3 * PAGE)
    core.failed(fill, errno.EAGAIN, 0, 0.0)
    core.retry()
    assert list(core.out) == [Wake(START + 3 * PAGE, PAGE)]
    assert state(core, 3) == "missing"


def test_a_page_that_was_mapped_a_moment_ago_is_not_taken_for_dropped() -> None:
    core = core_of(8, 4)
    core.not_cached(Fill(CONTINUE, 3, 1, START + 3 * PAGE))
    assert state(core, 3) == "missing"


def test_whoever_waits_for_a_page_on_its_way_out_is_woken() -> None:
    core = core_of(8, 4)
    core.pages.move(3, 1, FILLING)
    core.pages.move(3, 1, CLEAN)
    core.pages.move(3, 1, EVICTING)
    core.fault(START + 3 * PAGE, 0)
    assert not core.out
    core.residency.evicted(core.ledger, Evict(3, 1))
    assert list(core.out) == [Wake(START + 3 * PAGE, PAGE)]


def test_what_the_client_drops_and_nobody_wrote_leaves_the_file() -> None:
    core = core_of(8, 4)
    touch(core, 2)
    write(core, 3)
    core.remove(START, START + 8 * PAGE)
    assert [action for action in core.out if isinstance(action, Evict)] == [Evict(2, 1, True)]
    assert state(core, 2) == "removed"


def test_nothing_goes_while_a_place_that_mremap_left_may_show_it() -> None:
    core = core_of(256, 64)
    core.remap(START, START + (1 << 30), 4 * PAGE)
    perform(core)
    for page in range(64, 256):
        touch(core, page)
    assert core.counters.evicted == 0
    core.unmap(START, START + 4 * PAGE)
    perform(core)
    touch(core, 20)
    assert core.counters.evicted > 0


@pytest.mark.parametrize("before", [CLEAN, PRESENT, EVICTING])
def test_who_asked_to_write_before_the_page_was_moved_away_faults_again(before: int) -> None:
    core = core_of(256, 64)
    touch(core, 2)
    # Of what is read at once an event is applied first.
    core.remap(START, START + (1 << 30), 4 * PAGE)
    perform(core)
    core.pages.states[2] = before
    core.batch()
    core.fault(START + 2 * PAGE, PROTECTED)
    assert perform(core) == [Wake(START + 2 * PAGE, PAGE)]
    assert core.pages.states[2] == (before if before == EVICTING else PRESENT)


def test_a_kernel_that_takes_no_page_out_is_told_and_not_asked_again() -> None:
    core = core_of(256, 64)
    for page in range(200):
        core.batch()
        core.fault(START + page * PAGE, 0)
        while core.out:
            action = core.out.popleft()
            if isinstance(action, Fill):
                core.done(action)
            elif isinstance(action, Evict):
                core.residency.not_evicted(core.ledger, action, "EPERM")
    assert core.residency.stopped == "EPERM"
    assert core.pages.counts()["clean"] == 200


# --- a worker was killed -------------------------------------------------------------------------


def test_a_successor_takes_out_what_was_on_its_way_and_keeps_what_was_spilling() -> None:
    core = core_of(8, 4, spills=True)
    states = core.pages.states
    for page, value in enumerate((CLEAN, EVICTING, SPILLING, SPILLED, PRESENT, REMOVED)):
        states[page] = value
    recovery.resume([core])
    assert Evict(1, 1) in core.out
    assert WakeAll() in core.out
    assert [state(core, page) for page in (0, 2, 3, 4)] == [
        "clean",
        "present",
        "spilled",
        "present",
    ]
    perform(core)
    assert state(core, 1) == "missing"


def test_the_fill_made_last_is_clean_if_it_was_protected() -> None:
    core = core_of(8, 4)
    core.pages.move(2, 2, FILLING)
    recovery.settle(core, FillRecord(1, COPY, 2, 2, 2 * PAGE, protect=True))
    assert state(core, 2) == state(core, 3) == "clean"
    core.pages.move(5, 1, FILLING)
    recovery.settle(core, FillRecord(1, COPY, 5, 1, PAGE))
    assert state(core, 5) == "present"


def test_the_fill_made_last_does_not_touch_a_page_on_its_way_out() -> None:
    core = core_of(8, 4)
    core.pages.states[2] = EVICTING
    recovery.settle(core, FillRecord(1, COPY, 2, 1, PAGE, protect=True))
    assert state(core, 2) == "evicting"


def test_places_that_mremap_left_outlive_a_worker() -> None:
    core = core_of(256, 64)
    core.remap(START, START + (1 << 30), 4 * PAGE)
    kept = recovery.record(core, 1, 1)
    again = recovery.rebuild([kept], lambda _: core.plan, lambda _: core.pages)[1]
    assert list(again.ledger.left) == list(core.ledger.left)
    assert again.pages.states[0] == MISSING


def test_a_page_that_is_dropped_while_its_fill_waits_is_the_clients_own() -> None:
    plan = Plan(START, PAGE, QUIET, shared=True, source_zero=True, resident=4, evicts=True)
    core = MappingCore(plan, Pages(bytearray(8), 8))
    core.batch()
    core.fault(START + PAGE, 0)
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    assert (fill.kind, fill.protect) == (ZERO, True)
    core.failed(fill, errno.EAGAIN, 0, 0.0)
    core.remove(START + PAGE, START + 2 * PAGE)
    perform(core)
    core.retry()
    perform(core)
    assert core.pages.states[1] == PRESENT


def test_the_mark_that_a_page_leaves_behind_is_no_page_to_a_poison() -> None:
    core = core_of(8, 4)
    core.give_up("asked to", "")
    poison = next(each for each in core.out if isinstance(each, Fill) and each.kind == POISON)
    core.out.clear()
    core.failed(poison, errno.EEXIST, 0, 0.0)
    lift, again = core.out.popleft(), core.out.popleft()
    assert isinstance(lift, Fill)
    assert isinstance(again, Fill)
    assert (lift.kind, lift.page, lift.count) == (UNPROTECT, poison.page, poison.count)
    assert (again.kind, again.page, again.count) == (POISON, poison.page, poison.count)
    assert core.pages.states[again.page] == FILLING
    core.failed(again, errno.EEXIST, 0, 0.0)  # then it is a page
    assert core.pages.states[again.page] == PRESENT
