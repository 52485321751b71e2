"""Children of a fork: their own copies of private memory, their share of what is shared."""

from __future__ import annotations

from pager_core.hands import LAZY, seen, steps, touch
from pager_core.simjudge import calm, finale
from pager_core.simparts import SHMEM, source
from pager_core.simstate import Config
from pager_core.simworld import World
from userfault.pager.core.states import FILLING, MISSING, PRESENT


def forked(world: World) -> None:
    world.kernel.calls.fork(world.kernel.mms[0])
    calm(world)


def test_a_private_child_gets_its_own_copy_of_what_is_missing() -> None:
    world = World(LAZY)
    forked(world)
    touch(world, 1)
    calm(world)
    assert world.contexts[1].core.pages.states[1] == MISSING
    world.kernel.touch(world.kernel.mms[0].threads[0], world.kernel.start + 2, write=True)
    calm(world)

    for page in (1, 2):
        touch(world, page, process=1)
        calm(world)
        assert seen(world, process=1) == source(page)
    finale(world)


def test_a_private_child_does_not_wait_for_bytes_on_their_way_to_its_parent() -> None:
    world = World(LAZY._replace(origin="function"))
    touch(world, 1)
    steps(world, 3)
    world.kernel.calls.fork(world.kernel.mms[0])
    steps(world, 2)
    assert world.contexts[0].core.pages.states[1] == FILLING
    assert world.contexts[1].core.pages.states[1] == MISSING
    finale(world)


def test_a_child_of_shared_memory_is_woken_by_its_parents_fill() -> None:
    world = World(LAZY._replace(kind=SHMEM, origin="function"))
    forked(world)
    touch(world, 1)
    steps(world, 3)
    touch(world, 1, process=1)
    steps(world, 2)
    assert world.contexts[1].core.counters.faults == 1

    world.answer(0)
    calm(world)
    assert seen(world) == seen(world, process=1) == source(1)
    assert world.contexts[0].core.counters.fetches == 1


def test_who_waits_for_bytes_that_a_dead_sibling_asked_for_is_served() -> None:
    world = World(LAZY._replace(kind=SHMEM, origin="function"))
    forked(world)
    touch(world, 1)
    steps(world, 3)
    touch(world, 1, process=1)
    steps(world, 2)
    world.kernel.calls.exit(world.kernel.mms[0])
    world.reap()
    calm(world)
    assert seen(world, process=1) == source(1)


def test_memory_that_one_process_unmaps_stays_the_sources_for_another() -> None:
    world = World(LAZY._replace(kind=SHMEM))
    forked(world)
    world.kernel.calls.munmap(world.kernel.mms[0], world.kernel.start, 8)
    calm(world)
    assert world.contexts[0].core.pages.states[3] == MISSING

    touch(world, 3, process=1)
    calm(world)
    assert seen(world, process=1) == source(3)


def test_background_fill_reaches_pages_that_only_a_child_maps() -> None:
    world = World(Config(kind=SHMEM, background=True))
    world.kernel.calls.fork(world.kernel.mms[0])
    steps(world, 2)
    world.kernel.calls.munmap(world.kernel.mms[0], world.kernel.start, 4)
    calm(world)

    assert world.contexts[0].core.pages.runs(0, 8, PRESENT) == [(0, 8)]
    assert [context.finishes for context in world.contexts] == [1, 1]


def test_a_child_forked_after_the_finish_still_gets_sigbus_on_a_poisoned_page() -> None:
    """Markers of shared memory are not inherited: the child's faults are answered, not let go."""
    world = World(Config(kind=SHMEM, background=True, bad=frozenset({2})))
    calm(world)
    assert world.contexts[0].finishes == 1

    forked(world)
    touch(world, 2, process=1)
    calm(world)
    assert seen(world, process=1) == "SIGBUS"
    touch(world, 3, process=1)
    calm(world)
    assert seen(world, process=1) == source(3)
