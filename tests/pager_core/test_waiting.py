"""Who waits for what: one fill for many, and who goes first when places are few."""

from __future__ import annotations

import pytest

from pager_core.hands import LAZY, core_of, fault, seen, steps, touch
from pager_core.simjudge import calm
from pager_core.simparts import source
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import Fetch
from userfault.pager.core.core import MappingCore


def test_threads_on_one_page_in_one_batch_cost_one_fill() -> None:
    world = World(LAZY)
    for thread in range(3):
        touch(world, 2, thread)
    calm(world)

    counters = world.contexts[0].core.counters
    assert (counters.faults, counters.copied, counters.duplicates) == (3, 1, 2)
    assert [seen(world, thread) for thread in range(3)] == [source(2)] * 3


def test_a_fault_on_a_page_that_is_being_filled_needs_no_action() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 2)
    steps(world, 3)
    assert len(world.flights) == 1

    touch(world, 2, 1)
    steps(world, 2)
    assert not world.contexts[0].core.out

    world.answer(0)
    calm(world)
    assert seen(world, 0) == seen(world, 1) == source(2)
    assert world.contexts[0].core.counters.fetches == 1


def test_a_fetch_that_a_thread_comes_to_wait_for_overtakes_the_others() -> None:
    core = core_of(source_fetches=True)
    core.want(0, 1)
    for page in range(4):
        fault(core, page)  # four fetches may be under way
    fault(core, 4)
    fault(core, 5)
    assert [action.page for action in core.out if isinstance(action, Fetch)] == [0, 1, 2, 3]

    fault(core, 4)  # a second thread: it is the next
    first = core.out[0]
    assert isinstance(first, Fetch)
    core.fetched(first, memoryview(bytes(PAGE)))
    fetches = [action.page for action in core.out if isinstance(action, Fetch)]
    assert fetches[-1] == 4


def test_background_leaves_a_place_for_a_fetch_that_a_thread_waits_for() -> None:
    world = World(Config(origin="function", background=True, fetches=2, window=1))
    steps(world, 2)
    assert len(world.flights) == 1
    assert not world.idle()

    touch(world, 7)
    steps(world, 3)
    assert [fetch.page for _, fetch in world.flights] == [0, 7]


def begun(core: MappingCore) -> list[Fetch]:
    """The reads that were asked for; nothing else is left to do."""
    found = [action for action in core.out if isinstance(action, Fetch)]
    core.out.clear()
    return found


def prefetching(count: int) -> tuple[MappingCore, list[Fetch]]:
    """A core that was asked for `count` pages in advance, one by one, and the reads begun."""
    core = core_of(count + 2, source_fetches=True)
    found = []
    for page in range(count):
        core.want(page, 1)
        while core.idle_work():
            found += begun(core)
    return core, found


def test_prefetch_leaves_a_place_for_a_fetch_that_a_thread_waits_for() -> None:
    core, reads = prefetching(6)
    assert [fetch.page for fetch in reads] == [0, 1, 2]
    fault(core, 7)
    assert [(fetch.page, fetch.demand) for fetch in begun(core)] == [(7, True)]


def test_a_fault_goes_before_prefetches_that_have_failed() -> None:
    core, reads = prefetching(6)
    for fetch in reads:
        core.fetch_failed(fetch, "it failed", 0.0)
    reads = begun(core)
    assert [(fetch.page, fetch.demand) for fetch in reads] == [(3, False), (4, False), (5, False)]
    core.tick(100.0)  # they are tried again, behind those
    assert not begun(core)
    fault(core, 7)
    assert [fetch.page for fetch in begun(core)] == [7]
    for fetch in reads:
        core.fetched(fetch, memoryview(bytes(PAGE)))
    assert [(fetch.page, fetch.demand) for fetch in begun(core)] == [(0, False), (1, False)]


@pytest.mark.parametrize("when", ["reads", "pauses", "queues"])
def test_a_prefetch_that_failed_and_is_waited_for_goes_before_the_others(when: str) -> None:
    core, reads = prefetching(6)
    if when == "reads":
        fault(core, 0)
    core.fetch_failed(reads[0], "it failed", 0.0)
    begun(core)
    if when == "pauses":
        fault(core, 0)
    core.tick(100.0)
    again = begun(core)
    if when == "queues":
        assert not again
        fault(core, 0)
        again = begun(core)
    assert [(fetch.page, fetch.demand) for fetch in again] == [(0, True)]


def test_threads_that_wait_for_a_place_have_it_in_the_order_in_which_they_came() -> None:
    core = core_of(source_fetches=True)
    for page in range(7):
        fault(core, page)
    reads = begun(core)
    assert [fetch.page for fetch in reads] == [0, 1, 2, 3]
    for fetch in reads[:3]:
        core.fetched(fetch, memoryview(bytes(PAGE)))
    assert [fetch.page for fetch in begun(core)] == [4, 5, 6]


def test_a_signal_during_the_wait_loses_nothing() -> None:
    world = World(LAZY)
    touch(world, 1)
    world.step()
    world.kernel.signal(world.kernel.mms[0].threads[0])
    calm(world)
    assert seen(world) == source(1)
