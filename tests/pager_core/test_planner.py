"""Which pages next is a part of its own: another planner fits, and none can make a byte wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pager_core.simjudge import calm, finale
from pager_core.simparts import source
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import COPY, Fill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.planner import Books, Load, Run
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import CACHED, MISSING, Pages
from userfault.pager.core.trace import BACKGROUND
from userfault.pager.core.windows import WindowPlanner

START = 1 << 20


class Recorded:
    """Fills the pages of a list, in its order, whenever nobody waits; with a fault, its page."""

    def __init__(self, books: Books, order: list[int]) -> None:
        self.background = True
        self.quiet = 0
        self.follows = True
        self.along: list[Run] = []
        self.why = BACKGROUND
        self.more = False
        self.told: list[tuple[int, int, bool]] = []
        self.times: list[float] = []
        self._books = books
        self._left = order

    def fault(self, page: int) -> Run:
        return page, 1

    def minor(self, page: int) -> Run:
        return page, 1

    def settled(self, page: int, count: int, demand: bool) -> None:
        self.told.append((page, count, demand))

    def time(self, now: float) -> None:
        self.times.append(now)

    def want(self, page: int, count: int) -> None:
        self._left = [*range(page, page + count), *self._left]

    def forget(self) -> None:
        self.background = False
        self._left = []

    @property
    def eager(self) -> bool:
        return self.background and bool(self._left)

    def idle(self, _load: Load) -> Run | None:
        while self._left:
            page = self._left.pop(0)
            if self._books.pages.states[page] in (MISSING, CACHED):
                return page, 1
        return None


def following(order: list[int]) -> Callable[[Books], Recorded]:
    return lambda books: Recorded(books, list(order))


def core_with(order: list[int], count: int = 8) -> MappingCore:
    plan = Plan(START, PAGE, Policy(background=False, window_bytes=PAGE))
    return MappingCore(plan, Pages(bytearray(count), count), planner=following(order))


def copied(core: MappingCore) -> list[int]:
    """The pages that it fills while nobody waits, in order."""
    pages = []
    while core.idle_work():
        fill = core.out.popleft()
        assert isinstance(fill, Fill)
        assert fill.kind == COPY
        pages.append(fill.page)
        core.done(fill)
    return pages


def test_what_was_recorded_is_filled_in_its_order_but_what_a_fault_brought() -> None:
    core = core_with([5, 2, 7, 2, 0])
    core.fault(START + 7 * PAGE, 0)
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    core.done(fill)
    assert copied(core) == [5, 2, 0]


def test_a_planner_that_follows_is_told_what_is_in_and_who_waited_for_it() -> None:
    core = core_with([3])
    core.fault(START, 0)
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    core.done(fill)
    copied(core)
    core.tick(7.0)
    assert isinstance(core.planner, Recorded)
    assert core.planner.told == [(0, 1, True), (3, 1, False)]
    assert core.planner.times == [7.0]


def test_the_child_of_a_fork_has_a_planner_of_its_own_that_fills_nothing_in_advance() -> None:
    core = core_with([1, 2])
    child = core.fork(Pages(bytearray(8), 8))
    assert child.planner is not core.planner
    assert isinstance(child.planner, Recorded)
    assert not child.eager
    assert core.eager


def filled(core: MappingCore) -> Fill:
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    core.done(fill)
    return fill


def test_no_more_comes_in_than_there_is_room_for_but_the_page_that_a_thread_waits_for() -> None:
    core = MappingCore(Plan(START, PAGE, Policy()), Pages(bytearray(64), 64))
    core.ledger.room = 5
    assert core.idle_work() == 5
    assert filled(core) == Fill(COPY, 0, 5, START, False)
    core.ledger.room = 0
    assert core.idle_work() == 0
    for page in (10, 11, 12, 13):
        core.fault(START + page * PAGE, 0)
        assert filled(core) == Fill(COPY, page, 1, START + page * PAGE)
    core.ledger.room = 3
    core.fault(START + 14 * PAGE, 0)
    assert 1 <= filled(core).count <= 3


def pieces(core: MappingCore, until: float) -> list[tuple[float, int]]:
    """When pages are filled in the background, and how many."""
    found = []
    now = 0.0
    while now < until and not core.finished:
        while core.idle_work():
            found.append((round(now, 6), filled(core).count))
        due = core.next_time()
        assert due is not None
        now = max(due, now)
        core.tick(now)
    return found


def test_the_background_keeps_to_its_pace_and_what_is_asked_for_does_not() -> None:
    policy = Policy(bandwidth_bytes=100 * PAGE, chunk_bytes=5 * PAGE)
    core = MappingCore(Plan(START, PAGE, policy), Pages(bytearray(100), 100))
    assert pieces(core, 0.2) == [(0.0, 5), (0.05, 5), (0.1, 5), (0.15, 5)]
    core.fault(START + 90 * PAGE, 0)
    assert filled(core).count == 1
    core.want(40, 10)
    assert [core.idle_work(), filled(core).count, core.idle_work(), filled(core).count] == [5] * 4
    core.complete()
    while not core.finished:
        assert core.idle_work()
        filled(core)


def test_time_in_which_the_background_could_not_run_is_not_saved_up() -> None:
    policy = Policy(bandwidth_bytes=100 * PAGE, chunk_bytes=5 * PAGE)
    core = MappingCore(Plan(START, PAGE, policy), Pages(bytearray(100), 100))
    assert core.idle_work() == 5
    filled(core)
    core.tick(10.0)
    assert core.idle_work() == 5
    filled(core)
    assert core.idle_work() == 0
    assert core.next_time() == 10.05


def in_the_background(core: MappingCore, times: int) -> list[int]:
    """How many pages each of so many fills has."""
    found = []
    for _ in range(times):
        assert core.idle_work()
        found.append(filled(core).count)
    return found


GROWING = {
    True: [4, 8, 12, *[16] * 13, *[32] * 16, *[64] * 33],
    False: [*[16] * 64, 64],
}


@pytest.mark.parametrize("restored", GROWING)
def test_after_a_fault_of_a_program_made_anew_what_nobody_waits_for_comes_in_small_pieces(
    restored: bool,
) -> None:
    plan = Plan(START, PAGE, Policy(chunk_bytes=16 * PAGE), restored=restored)
    core = MappingCore(plan, Pages(bytearray(4096), 4096))
    assert in_the_background(core, 65) == GROWING[restored]
    core.fault(START + 4095 * PAGE, 0)
    filled(core)
    assert in_the_background(core, 5) == GROWING[restored][:5]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_planner_chooses_every_byte_is_right_and_everything_ends(seed: int) -> None:
    chance = random.Random(seed)
    config = Config(background=True, pages=12)
    order = [chance.randrange(config.pages) for _ in range(30)]
    world = World(config)
    assert world.state.main is not None
    core = world.state.main.core
    core.planner = Recorded(core.ledger, order)
    mm = world.kernel.mms[0]
    for page in [chance.randrange(config.pages) for _ in range(10)]:
        if mm.threads[0].state == "idle":
            world.kernel.touch(mm.threads[0], world.kernel.start + page)
        calm(world)
        assert mm.threads[0].last == source(page)
    core.planner = WindowPlanner(core.ledger)  # what the recording has not: the rest
    calm(world)
    finale(world)
