"""What comes with a fault is worth what it costs: on order, on density, and on neither.

Times are counted, not measured: a clock of the rehearsal, with the prices of one machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from userfault.pager.core.actions import Fill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.costs import Costs
from userfault.pager.core.density import Experience
from userfault.pager.core.plan import Counters, Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.rehearsal import Outcome, Touch, rehearse
from userfault.pager.core.states import CACHED, Pages
from userfault.pager.core.streams import Streams

PAGE = 4096
COUNT = 1 << 16  # 256 MiB
CHANCE = random.Random()
START = 1 << 30


@pytest.fixture(autouse=True)
def dice() -> None:
    """The same for a test whichever ran before it in this process."""
    CHANCE.seed(5)


def seen(pages: Iterable[int], around: str = "cost", window: int = 64) -> Outcome:
    policy = Policy(background=False, fill_around=around, window_bytes=window * PAGE)
    return rehearse([Touch(1e-6, page) for page in pages], COUNT, PAGE, policy)


def at_random(share: float) -> list[int]:
    return CHANCE.sample(range(COUNT), int(COUNT * share))


def in_runs(length: int, share: float) -> list[int]:
    starts = CHANCE.sample(range(0, COUNT - length, length), int(COUNT * share) // length)
    return [start + step for start in starts for step in range(length)]


def interleaved(streams: int, length: int) -> list[int]:
    return [number * (COUNT // streams) + at for at in range(length) for number in range(streams)]


@pytest.mark.parametrize(
    "pages",
    [range(COUNT // 2), range(COUNT // 2, 0, -1), interleaved(4, 4000)],
    ids=["up", "down", "four streams"],
)
def test_order_costs_no_more_than_by_windows_that_double(pages: list[int]) -> None:
    assert seen(pages).total_s <= seen(pages, "order").total_s
    assert seen(pages).for_nothing <= 1024


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01])
def test_touches_that_are_really_sparse_cost_what_single_pages_cost(share: float) -> None:
    pages = at_random(share)
    assert seen(pages).total_s <= seen(pages, "page").total_s / 0.95


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_density_without_order_is_worth_blocks(share: float) -> None:
    """0.8: before that shows, its first touches look like those of one page in a hundred."""
    pages = at_random(share)
    assert seen(pages).total_s <= seen(pages, "block").total_s / 0.8
    assert seen(pages).total_s <= seen(pages, "page").total_s


@pytest.mark.parametrize("share", [0.02, 0.03, 0.05])
def test_in_between_it_costs_at_most_three_times_the_better_choice(share: float) -> None:
    pages = at_random(share)
    better = min(seen(pages, around).total_s for around in ("page", "block"))
    assert seen(pages).total_s <= 3 * better


@pytest.mark.parametrize(
    ("length", "share", "least"),
    [(10, 0.25, 1.0), (10, 0.05, 1.0), (40, 0.3, 1.0), (3, 0.25, 0.85), (3, 0.1, 0.7)],
)
def test_runs_at_random_places_cost_little_more_than_the_best_choice(
    length: int, share: float, least: float
) -> None:
    pages = in_runs(length, share)
    better = min(seen(pages, around).total_s for around in ("page", "order", "block"))
    assert seen(pages).total_s <= better / least


@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_every_nth_page_in_order_is_worth_blocks(step: int) -> None:
    pages = range(0, COUNT, step)
    assert seen(pages).total_s <= seen(pages, "block").total_s / 0.9


def test_what_is_learned_in_one_place_helps_in_the_next() -> None:
    """Objects of 20 to 60 pages, half of whose pages are touched, here and there."""
    pages: list[int] = []
    for start in CHANCE.sample(range(0, COUNT - 64, 64), 400):
        size = CHANCE.randrange(20, 60)
        pages += CHANCE.sample(range(start, start + size), size // 2)
    first, second = pages[: len(pages) // 2], pages[len(pages) // 2 :]
    whole, half = seen(pages), seen(first)
    assert whole.faults - half.faults < half.faults
    assert len(second) >= len(first)
    assert whole.total_s <= seen(pages, "order").total_s / 2


def in_pieces(length: int, share: float) -> list[int]:
    """Pieces of sixteen pages, of each some, all of it in no order."""
    pieces = CHANCE.sample(range(COUNT // 16), int(COUNT // 16 * share))
    pages = [16 * at + page for at in pieces for page in CHANCE.sample(range(16), length)]
    CHANCE.shuffle(pages)
    return pages


@pytest.mark.parametrize("length", [16, 8])
def test_touches_that_lie_together_are_found_before_it_is_known_what_they_cost(length: int) -> None:
    pages = in_pieces(length, 0.1)
    pieces = COUNT // 16 // 10
    assert seen(pages).faults < 1.7 * pieces
    assert seen(pages).total_s < 0.5 * seen(pages, "page").total_s


def test_memories_that_show_one_image_learn_together_how_it_is_touched() -> None:
    def faults(experiences: dict[int, Experience] | None) -> int:
        plan = Plan(START, PAGE, Policy(background=False), experiences=experiences)
        core = MappingCore(plan, Pages(bytearray(COUNT), COUNT))
        for page in in_pieces(16, 0.05):
            if not core.pages.states[page]:
                core.fault(START + page * PAGE, 0)
                _done(core, page)
                while core.idle_work():
                    _done(core, -1)
        return core.counters.faults

    shared: dict[int, Experience] = {}
    first, *others = [faults(shared) for _ in range(4)]
    assert max(others) < 0.8 * first
    assert faults(None) > max(others)


def test_a_window_of_one_page_is_one_page_whatever_comes() -> None:
    pages = [*range(500), *at_random(0.05)]
    found = seen(pages, window=1)
    assert found.faults == found.filled == found.touched


def test_a_thread_waits_for_no_more_than_a_window_unless_a_stream_is_alone() -> None:
    core = MappingCore(Plan(START, PAGE, Policy(background=False)), Pages(bytearray(8192), 8192))
    order = [*range(60), *CHANCE.sample(range(1000, 8000), 6000)]
    alone = 0
    for page in order:
        if core.pages.states[page]:
            continue
        core.fault(START + page * PAGE, 0)
        alone = max(alone, _done(core, page))
        while core.idle_work():
            _done(core, -1)
    assert alone == 64


def _done(core: MappingCore, page: int) -> int:
    """Perform what is asked for; how many pages came with one that a thread waits for."""
    fill = core.out[0]
    assert isinstance(fill, Fill)
    assert page < 0 or fill.page <= page < fill.page + fill.count
    while core.out:
        each = core.out.popleft()
        if isinstance(each, Fill):
            core.done(each)
    return fill.count


def test_pages_that_are_complete_are_mapped_by_the_same_rules_and_sooner() -> None:
    plan = Plan(START, PAGE, Policy(background=False), shared=True)
    core = MappingCore(plan, Pages(bytearray([CACHED]) * COUNT, COUNT))
    faults = 0
    for page in at_random(0.25):
        if core.pages.states[page] == CACHED:
            core.fault(START + page * PAGE, 4)
            _done(core, page)
            faults += 1
    assert faults < 4000


def test_room_bounds_blocks_and_windows() -> None:
    core = MappingCore(Plan(START, PAGE, Policy(background=False)), Pages(bytearray(8192), 8192))
    core.ledger.room = 3
    for page in [*range(64), *CHANCE.sample(range(64, 8192), 3000)]:
        if not core.pages.states[page]:
            core.fault(START + page * PAGE, 0)
            assert _done(core, page) <= 3


def test_what_was_filled_in_hope_is_told_beside_what_came_of_it() -> None:
    pages = at_random(0.25)
    core = MappingCore(Plan(START, PAGE, Policy(background=False)), Pages(bytearray(COUNT), COUNT))
    faults = 0
    for page in [*range(600), *pages]:
        if not core.pages.states[page]:
            core.fault(START + page * PAGE, 0)
            _done(core, page)
            faults += 1
            while core.idle_work():
                _done(core, -1)
    counters = core.counters
    assert counters.proved >= 1 + 3 + 7 + 15 + 31 + 63
    assert 0 < counters.proved <= counters.around
    assert 0.2 * len(pages) < counters.spared + faults < 2 * len(pages)


# --- the costs -----------------------------------------------------------------------------------


def served(costs: Costs, fault_s: float, page_s: float, think_s: float = 0.0) -> None:
    """Some faults: of one page and of 64 pages, in turn."""
    now = 0.0
    for number in range(400):
        count = 64 if number & 1 else 1
        now += fault_s + (think_s if number % 5 else 0)
        costs.took(now, now + count * page_s, count, number)
        now += count * page_s


@pytest.mark.parametrize("think_s", [0.0, 1e-3])
def test_costs_are_measured_whatever_the_client_does_in_between(think_s: float) -> None:
    costs = Costs()
    served(costs, 40e-6, 2e-6, think_s)
    assert 18 <= costs.ratio <= 60 if think_s else 18 <= costs.ratio <= 22


def test_costs_of_fills_that_did_not_follow_upon_each_other_tell_no_fault() -> None:
    costs = Costs()
    for number in range(0, 100, 2):
        costs.took(float(number), number + 1e-6, 1, number)
    assert costs.fault_s == 0
    assert costs.ratio == Costs().ratio


# --- streams -------------------------------------------------------------------------------------


def test_runs_of_ten_are_soon_begun_with_sixteen_pages_and_single_pages_with_one() -> None:
    streams = Streams(64, Counters())
    for start in range(0, 100_000, 1000):
        _run(streams, start, 10)
    assert streams.best == 16
    for start in range(1_000_000, 4_000_000, 1000):
        _run(streams, start, 1)
    assert streams.best == 1


def _run(streams: Streams, page: int, length: int) -> None:
    end = page + length
    while page < end:
        window = streams.at(page) or streams.begin(12.0)
        page += window
        streams.ended(page - 1, window)
