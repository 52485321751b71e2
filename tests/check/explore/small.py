"""Scenarios small enough to be walked whole by plain search, and unlike each other.

Together they touch every kind of place that a step records.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario, Scenarios
from userfault.check.explore.building.world import World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman

small = Scenarios()


@small()
def shmem_copy_and_punch(world: World) -> None:
    """A read of shared memory, COPY and a hole."""
    area = world.map("shmem")
    uffd = world.uffd(area)
    file = world.open(area.file)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("puncher", lambda me: me.punch(file, 0))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def continue_and_truncate(world: World) -> None:
    """A minor fault, CONTINUE, and the file that becomes shorter."""
    area = world.map("shmem")
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    uffd = world.uffd(area, mode=Mode.MINOR)
    file = world.open(area.file)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.continue_(uffd, area[0]))
    world.task("truncater", lambda me: me.truncate(file, 0))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def protect_and_unregister(world: World) -> None:
    """A write to a page that is protected, freed, and unregistered."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)

    def protect(me: Caller) -> object:
        first = me.writeprotect(uffd, area[0])
        return [first, me.writeprotect(uffd, area[0], protect=False)]

    world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
    world.task("protector", protect)
    world.task("unregisterer", lambda me: me.unregister(uffd, area[0], PAGE))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def munmap_with_event(world: World) -> None:
    """A read, munmap that sends its event, and a handler that looks for it."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_UNMAP)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], b"x")
        return [done, me.message(uffd, wait=False), me.message(uffd, wait=False)]

    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("unmapper", lambda me: me.munmap(area[0], PAGE), may_wait=True)
    world.task("handler", serve)


@small()
def remap_with_event(world: World) -> None:
    """A read, mremap that sends its event, and a handler that looks for it."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_REMAP)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], b"x")
        return [done, me.message(uffd, wait=False), me.message(uffd, wait=False)]

    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, 3, 0x100000), may_wait=True)
    world.task("handler", serve)


@small()
def fork_with_event(world: World) -> None:
    """fork while another thread writes what is registered for WP, and a handler."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, features=Feature.EVENT_FORK, mode=Mode.WP)
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", lambda me: me.message(uffd))


@small()
def close_while_filling(world: World) -> None:
    """A read, COPY, and the descriptor that is closed."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("closer", lambda me: me.close(uffd))


@small()
def huge_page_dropped(world: World) -> None:
    """hugetlb: a read, COPY and MADV_DONTNEED."""
    area = world.map("hugetlb")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x", area.length))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def move_of_a_written_page(world: World) -> None:
    """A read, MOVE, and a write to where the page came from."""
    area = world.map("anon", 2)
    world.store(area[1], b"source")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("mover", lambda me: me.move(uffd, area[0], area[1]))
    world.task("writer", lambda me: me.write(area[1], b"w"), may_wait=True)
    world.final("memory", lambda: (world.peek(area[0]), world.peek(area[1])))


@small()
def private_copies(world: World) -> None:
    """Two writes to one private page of a file, and COPY."""
    area = world.map("shmem", shared=False)
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    uffd = world.uffd(area)
    world.task("writer a", lambda me: me.write(area[0], b"1"), may_wait=True)
    world.task("writer b", lambda me: me.write(area[0] + 1, b"2"), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"zz"))
    world.final("memory", lambda: (world.peek(area[0], 3), world.peek(alias[0], 3)))


SMALL: list[Scenario] = list(small.by_name.values())
