"""A working set that comes ahead of the faults: beside a fault, a drop, and a worker's death.

What is filled by one action is several fills, of which none is under way in the states: what a
killed worker had done of them its journal tells alone.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.serving import Terms, serve
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.pager import allow, killer, shows
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.uapi import mman

_GROUP = "sets"
_COURSE = (((0, 1), (1, 1)),)  # both pages by one action, an ioctl each
_SET = Terms(course=_COURSE)
_MORTAL = Terms(course=_COURSE, mortal=True)
_SOURCES = (b"source 0", b"source 1")
_ZEROS = bytes(8)


def _toucher(world: World, area: Area, page: int) -> Caller:
    return world.task("toucher", lambda me: me.read(area[page], 8))


@scenario(group=_GROUP)
def set_beside_fault(world: World) -> None:
    """A page is touched while the set that has it comes: it is the source's, and nobody sleeps."""
    area = world.map("anon", 2)
    serve(world, area, _SET)
    allow(world, _toucher(world, area, 1), _SOURCES[1])
    shows(world, area[0], _SOURCES[0])


@scenario(group=_GROUP)
def set_against_drop(world: World) -> None:
    """A page is dropped while the set that has it comes: from then on it reads zero."""
    area = world.map("anon", 2)
    serve(world, area, _SET)

    def drop(me: Caller) -> object:
        me.madvise(area[1], PAGE, mman.MADV_DONTNEED)
        return me.read(area[1], 8)

    allow(world, world.task("dropper", drop), _ZEROS)
    shows(world, area[0], _SOURCES[0])


@scenario(group=_GROUP)
def set_against_alias(world: World) -> None:
    """A page is written through its file while the set comes: what was written stays."""
    area = world.map("shmem", 2)
    serve(world, area, _SET)
    file = world.open(area.file)
    writer = world.task("writer", lambda me: me.pwrite(file, PAGE, b"written!"))
    allow(world, writer, 8)
    shows(world, area[1], b"written!")


@scenario(group=_GROUP)
def set_against_kill(world: World) -> None:
    """The worker is killed at any step of a set's coming, and another one goes on."""
    area = world.map("anon", 2)
    killer(world, serve(world, area, _MORTAL))
    for page in range(2):
        shows(world, area[page], _SOURCES[page])


@scenario(group=_GROUP)
def set_drop_against_kill(world: World) -> None:
    """What came and was dropped is never the source's again, though the worker was killed."""
    area = world.map("anon")
    killer(world, serve(world, area, Terms(course=(((0, 1),),), mortal=True)))
    dropper = world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    allow(world, dropper, 0)
    shows(world, area[0], _ZEROS)
