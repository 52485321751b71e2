"""Background fill, and when a mapping is finished: once, and by name."""

from __future__ import annotations

import errno

import pytest

from pager_core.hands import LAZY, START, core_of, fault, fill_of, seen, touch
from pager_core.simjudge import calm, finale
from pager_core.simparts import ANON, KINDS, SHMEM, ZEROS, Kind
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import CONTINUE, Finish
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import CACHED, PRESENT, Pages
from userfault.pager.core.windows import WindowPlanner


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_background_fills_everything_and_finishes_once(kind: Kind) -> None:
    world = World(Config(kind=kind, background=True))
    calm(world)
    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(0, 8)]
    assert world.contexts[0].core.counters.background == 8
    assert world.contexts[0].finishes == 1
    finale(world)


def test_what_is_wanted_comes_before_the_background() -> None:
    core = core_of()
    core.planner.background = True
    core.want(5, 2)
    core.idle_work()
    fill = fill_of(core)
    assert (fill.page, fill.count, fill.demand) == (5, 2, False)


def test_prepared_memory_is_mapped_not_copied() -> None:
    world = World(Config(kind=SHMEM, prepared=True, background=True))
    calm(world)
    counters = world.contexts[0].core.counters
    assert (counters.continued, counters.copied) == (8, 0)


def test_touches_alone_finish_too() -> None:
    world = World(LAZY)
    for page in range(8):
        touch(world, page)
        calm(world)
    assert world.contexts[0].finishes == 1


def test_complete_fills_the_rest_where_nothing_was_filled_in_the_background() -> None:
    world = World(LAZY)
    calm(world)
    assert [context.finishes for context in world.contexts] == [0]
    world.contexts[0].core.complete()
    calm(world)
    assert [context.finishes for context in world.contexts] == [1]


def test_the_finish_names_what_is_still_mapped_and_where() -> None:
    core = core_of()
    core.unmap(START, START + 2 * PAGE)
    core.remap(START + 4 * PAGE, START + 100 * PAGE, 2 * PAGE)
    core.remove(0, 1 << 40)

    finish = core.out[-1]
    assert isinstance(finish, Finish)
    assert finish.segments == (
        (START + 2 * PAGE, 2 * PAGE),
        (START + 6 * PAGE, 2 * PAGE),
        (START + 100 * PAGE, 2 * PAGE),
    )


def test_the_end_of_the_process_ends_everything() -> None:
    core = core_of()
    fault(core, 0)
    core.failed(fill_of(core), errno.ESRCH, 0, 0.0)
    assert list(core.out) == [Finish((), owner_gone=True)]
    assert core.finished
    assert not core.eager


def test_a_zero_source_is_never_read() -> None:
    world = World(Config(kind=ANON, origin="zero", background=True))
    touch(world, 0)
    calm(world)
    counters = world.contexts[0].core.counters
    assert (counters.zeroed, counters.copied) == (8, 0)
    assert seen(world) == ZEROS


def test_cached_pages_are_mapped_in_windows_that_grow() -> None:
    plan = Plan(START, PAGE, Policy(background=False, fill_around="order"), shared=True)
    core = MappingCore(plan, Pages(bytearray([CACHED]) * 8, 8))
    assert isinstance(core.planner, WindowPlanner)
    core.planner._window.limit = 8
    counts = []
    for page in (0, 1, 3):
        core.fault(START + page * PAGE, 4)
        fill = fill_of(core)
        assert fill.kind == CONTINUE
        counts.append(fill.count)
        core.done(fill)
    assert counts == [1, 2, 4]


def test_a_child_of_a_process_that_unmapped_everything_maps_nothing() -> None:
    core = core_of(shared=True)
    core.unmap(START, START + 8 * PAGE)
    assert len(core.fork().segments) == 0
