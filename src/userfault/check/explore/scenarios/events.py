"""Events: whoever raises one sleeps until it is read, and fills fail with EAGAIN until then."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.calls_uffd import Message
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import (
    ANON,
    GUEST,
    HUGETLB,
    PRIVATE,
    SHMEM,
    SMALL,
    mapped,
    of_each,
)
from userfault.check.explore.scenarios.serving import copied
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_ZEROS = b"\0\0\0"
_ELSEWHERE = 0x100000


def _until(me: Caller, uffd: Descriptor, area: Area, event: str) -> None:
    """Serve faults until that event has been read, and then what met EAGAIN because of it."""
    left = []
    while isinstance(told := me.message(uffd), Message) and told.event != event:
        page = told.address & -area.step
        if copied(me, uffd, page, b"new", area.step) == "EAGAIN":
            left.append(page)
    for page in left:
        while copied(me, uffd, page, b"new", area.step) == "EAGAIN":
            me.try_again()


@of_each(ANON, SHMEM, PRIVATE, HUGETLB, group="events")
def unmap_event_and_copy(world: World, kind: str) -> None:
    """munmap with its event while a handler fills: it reads the event, and nobody waits on."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_UNMAP)

    def serve(me: Caller) -> object:
        _until(me, uffd, area, "UNMAP")
        return me.wake(uffd, area[0], area.length)

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    unmapper = world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    world.task("handler", serve)
    only(world, reader, b"new", "SIGSEGV")
    only(world, unmapper, 0)


@of_each(ANON, SHMEM, PRIVATE, HUGETLB, group="events")
def remove_event_and_copy(world: World, kind: str) -> None:
    """MADV_DONTNEED with its event while another thread fills: done, or EAGAIN until it is read."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    dropper = world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    handler = world.task("handler", lambda me: me.message(uffd))
    only(world, copier, area.step, "EAGAIN")
    only(world, dropper, 0)
    both(world, "no event", lambda: isinstance(handler.value, Message))


@of_each(ANON, SHMEM, HUGETLB, group="events")
def remove_event_and_reader(world: World, kind: str) -> None:
    """A page is read, dropped with an event, and served: its reader always gets its bytes."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.task("handler", lambda me: _until(me, uffd, area, "REMOVE"))
    only(world, reader, b"new", WAITS)


@of_each(*SMALL, group="events")
def remap_event_and_copy(world: World, kind: str) -> None:
    """mremap with its event while a page is copied in: it moves along, or nothing was filled."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMAP)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new"))
    mover = world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, 3, _ELSEWHERE))
    world.task("handler", lambda me: me.message(uffd))
    only(world, copier, PAGE, "EAGAIN", "ENOENT")
    only(world, mover, _ELSEWHERE)
    both(
        world,
        "the page did not move along",
        lambda: world.peek(_ELSEWHERE, 3) == (b"new" if copier.value == PAGE else None),
    )


@of_each(*SMALL, group="events")
def fork_event_and_child(world: World, kind: str) -> None:
    """A child is served through the descriptor of its FORK event: it reads what is copied there."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_FORK)

    def serve(me: Caller) -> object:
        told = me.message(uffd)
        return copied(me, told.fork, area[0], b"new", PAGE)

    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    world.task("handler", serve)
    both(
        world,
        "the child read other bytes",
        lambda: all(one.value == b"new" for one in world.callers.values() if "child" in one.name),
    )


@scenario(group="events")
def fork_event_and_killed_parent(world: World) -> None:
    """A forking process is killed while its FORK event waits: the handler is left with no task."""
    client = world.spawn()
    area = world.map("anon", process=client)
    uffd = world.uffd(area, features=Feature.EVENT_FORK)
    theirs = world.hand_over(uffd, world.process)
    world.task(
        "forker",
        lambda me: me.fork(lambda child: child.read(area[0], 3)),
        process=client,
        may_wait=True,
    )
    world.task("handler", lambda me: me.message(theirs), may_wait=True)
    world.task("killer", lambda me: me.exit(client))


@of_each(ANON, SHMEM, group="events")
def event_and_close(world: World, kind: str) -> None:
    """The descriptor is closed while an event waits to be read: who raised it goes on."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE | Feature.EVENT_UNMAP)
    dropper = world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    unmapper = world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    world.task("closer", lambda me: me.close(uffd))
    only(world, dropper, 0, "ENOMEM")
    only(world, unmapper, 0)


@of_each(ANON, SHMEM, group="events")
def remove_event_and_munmap(world: World, kind: str) -> None:
    """Memory is unmapped while its REMOVE event waits: ENOMEM, or it was dropped before."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    dropper = world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    world.task("handler", lambda me: me.message(uffd), may_wait=True)
    only(world, dropper, 0, "ENOMEM")


@of_each(ANON, SHMEM, group="events")
def remove_event_and_a_new_mapping(world: World, kind: str) -> None:
    """Memory is replaced and written while its REMOVE event waits: fresh bytes, or zeros."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)

    def replace(me: Caller) -> object:
        me.mmap_fixed(area[0], PAGE)
        me.write(area[0], b"new")
        return me.read(area[0], 3)

    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    replacer = world.task("replacer", replace)
    world.task("handler", lambda me: me.message(uffd), may_wait=True)
    only(world, replacer, b"new", _ZEROS)


@of_each(SHMEM, HUGETLB, group="events")
def madv_remove_event_and_copy(world: World, kind: str) -> None:
    """MADV_REMOVE with its event while a page is copied in: done, or EAGAIN until it is read."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    dropper = world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_REMOVE))
    world.task("handler", lambda me: me.message(uffd))
    only(world, copier, area.step, "EAGAIN")
    only(world, dropper, 0)


@of_each(*SMALL, group="events")
def two_events_at_once(world: World, kind: str) -> None:
    """Two threads drop two pages with events: one read ends one of them, no fill comes between."""
    area = mapped(world, kind, 2)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)

    def serve(me: Caller) -> object:
        me.message(uffd)
        between = me.copy(uffd, area[0], b"new")
        me.message(uffd)
        return between

    world.task("dropper a", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    world.task("dropper b", lambda me: me.madvise(area[1], PAGE, mman.MADV_DONTNEED))
    handler = world.task("handler", serve)
    only(world, handler, PAGE, "EAGAIN")


@of_each(GUEST, group="events")
def remove_event_and_guest(world: World, kind: str) -> None:
    """A guest reads what its host drops with an event: its page stays, the host is told anew."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    guest = world.guest(area)
    world.task("guest", lambda me: me.guest_read(guest, 0, 3))
    dropper = world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    world.task("handler", lambda me: me.message(uffd))
    only(world, dropper, 0)
