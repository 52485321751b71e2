"""A source that fails or is late: retried, then the page is given up, and its neighbours not."""

from __future__ import annotations

import pytest

from pager_core.hands import LAZY, core_of, fault, seen, steps, touch
from pager_core.simjudge import calm, finale
from pager_core.simparts import source
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import Abandon, Fetch
from userfault.pager.core.states import POISONED, PRESENT


@pytest.mark.parametrize("origin", ["file", "function"])
def test_a_page_that_cannot_be_read_is_retried_then_poisoned(origin: str) -> None:
    world = World(LAZY._replace(origin=origin, bad=frozenset({2}), retries=2))
    touch(world, 2)
    calm(world)

    assert seen(world) == "SIGBUS"
    assert world.contexts[0].core.counters.source_failures == 3
    finale(world)


@pytest.mark.parametrize("origin", ["file", "function"])
def test_a_bad_page_spares_its_neighbours(origin: str) -> None:
    world = World(Config(origin=origin, background=True, chunk=8, bad=frozenset({2})))
    calm(world)
    held = world.contexts[0].core.pages
    assert held.runs(0, 8, POISONED) == [(2, 1)]
    assert held.runs(0, 8, PRESENT) == [(0, 2), (3, 5)]
    finale(world)


def test_a_read_that_works_the_second_time_leaves_no_trace() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 2)
    steps(world, 3)
    world.answer(0, works=False)
    calm(world)
    assert seen(world) == source(2)


def test_a_read_past_its_deadline_is_abandoned_and_its_late_answer_ignored() -> None:
    core = core_of(source_fetches=True)
    fault(core, 2)
    fetch = core.out.popleft()
    assert isinstance(fetch, Fetch)
    core.started(fetch, 100.0)
    assert core.next_time() == 100.0 + core.plan.policy.deadline_s

    core.tick(100.0 + core.plan.policy.deadline_s)
    assert core.out.popleft() == Abandon(fetch.number)
    assert fetch.abandoned
    assert core.counters.deadlines == 1

    core.fetched(fetch, memoryview(bytes(PAGE)))
    assert not core.out
    core.tick(1000.0)  # the pause is over: it is read again
    again = core.out.popleft()
    assert isinstance(again, Fetch)
    assert (again.page, again.number) != (fetch.page, fetch.number)


@pytest.mark.parametrize("how", [{"has_poison": False}, {"on_failure": "kill"}], ids=str)
def test_where_poison_is_not_to_be_had_the_client_is_ended(how: dict[str, object]) -> None:
    world = World(LAZY._replace(bad=frozenset({2}), **how))  # type: ignore[arg-type]
    touch(world, 2)
    calm(world)
    assert world.state.over


def test_giving_up_poisons_what_is_not_filled_and_keeps_what_is() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 1)
    calm(world)
    touch(world, 2)
    steps(world, 3)  # its bytes are under way
    for page in (0, *range(2, 8)):
        world.kernel.mms[0].truths[page].given_up = True
    world.contexts[0].core.give_up("enough", "")
    world.answer(0)
    calm(world)

    assert seen(world) == "SIGBUS"
    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(1, 1)]
    assert world.contexts[0].finishes == 1
    finale(world)
