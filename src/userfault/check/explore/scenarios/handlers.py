"""Who serves a descriptor: several at once, and one that is killed and replaced."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.expecting import WAITS, only
from userfault.check.explore.scenarios.kinds import ALL, ANON, HUGETLB, SHMEM, mapped, of_each
from userfault.check.explore.scenarios.serving import copied, served
from userfault.uapi import mman


@of_each(*ALL, group="handlers")
def reader_and_handler(world: World, kind: str) -> None:
    """A handler reads the message of a fault and copies its page in: the reader goes on."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: served(me, uffd, area))
    only(world, reader, b"new")


@of_each(ANON, SHMEM, HUGETLB, group="handlers")
def two_handlers_one_reader(world: World, kind: str) -> None:
    """Two handlers wait at one descriptor: one gets the message, and the reader is served."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler a", lambda me: served(me, uffd, area), may_wait=True)
    world.task("handler b", lambda me: served(me, uffd, area), may_wait=True)
    only(world, reader, b"new")


@scenario(group="handlers")
def two_handlers_two_readers(world: World) -> None:
    """Two readers of two pages, two handlers of one descriptor: each page is served once."""
    area = world.map("anon", 2)
    uffd = world.uffd(area)
    one = world.task("reader a", lambda me: me.read(area[0], 3))
    two = world.task("reader b", lambda me: me.read(area[1], 3))
    world.task("handler a", lambda me: served(me, uffd, area))
    world.task("handler b", lambda me: served(me, uffd, area))
    only(world, one, b"new")
    only(world, two, b"new")


@scenario(group="handlers")
def one_reads_and_another_copies(world: World) -> None:
    """One handler reads the message and does nothing, another copies: the reader goes on."""
    area = world.map("anon")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("idler", lambda me: me.message(uffd), may_wait=True)
    world.task("copier", lambda me: me.copy(uffd, area[0], b"new"))
    only(world, reader, b"new")


@of_each(ANON, SHMEM, group="handlers")
def handler_killed_and_replaced(world: World, kind: str) -> None:
    """A handler is killed at any time; the next one wakes for what it had read, and serves."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    old = world.spawn()
    theirs = world.hand_over(uffd, old)

    def replace(me: Caller) -> object:
        me.exit(old)
        me.wake(uffd, area[0], area.length)
        return served(me, uffd, area)

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: served(me, theirs, area), process=old, may_wait=True)
    world.task("replacement", replace, may_wait=True)
    only(world, reader, b"new")


@of_each(ANON, SHMEM, group="handlers")
def handler_killed_in_its_copy(world: World, kind: str) -> None:
    """A handler is killed while the source of its COPY is read: another copies all the same."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    old = world.spawn()
    theirs = world.hand_over(uffd, old)
    source = world.map("anon", process=old)

    def replace(me: Caller) -> object:
        me.exit(old)
        return copied(me, uffd, area[0], b"new", area.step)

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: me.copy(theirs, area[0], source[0]), process=old)
    world.task("replacement", replace)
    only(world, reader, b"new", b"\0\0\0")


@of_each(ANON, SHMEM, HUGETLB, group="handlers")
def close_while_filling(world: World, kind: str) -> None:
    """The descriptor is closed while its handler copies: the reader sees its bytes or zeros."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    copier = world.task("handler", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("closer", lambda me: me.close(uffd))
    only(world, reader, b"new", b"\0\0\0")
    only(world, copier, area.step, "EEXIST", "EBADF", "ENOENT")


@scenario(group="handlers")
def close_while_a_handler_sleeps(world: World) -> None:
    """The descriptor is closed while a handler sleeps in read(2): the reader gets zeros."""
    area = world.map("anon")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: served(me, uffd, area), may_wait=True)
    world.task("closer", lambda me: me.close(uffd))
    only(world, reader, b"new", b"\0\0\0", WAITS)


@of_each(ANON, SHMEM, group="handlers")
def source_is_served_too(world: World, kind: str) -> None:
    """The source of a COPY is itself served by another handler: nobody waits for ever."""
    area = mapped(world, kind)
    source = world.map("anon")
    uffd = world.uffd(area)
    below = world.uffd(source)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))
    world.task("below", lambda me: me.copy(below, source[0], b"new"))
    only(world, reader, b"new")


@scenario(group="handlers")
def source_is_dropped_and_served(world: World) -> None:
    """The source of a COPY is dropped while it is read, and served again: nobody waits."""
    area = world.map("anon")
    source = world.map("anon")
    uffd = world.uffd(area)
    below = world.uffd(source)

    def supply(me: Caller) -> object:
        first = me.copy(below, source[0], b"new")
        me.madvise(source[0], source.length, mman.MADV_DONTNEED)
        return [first, me.copy(below, source[0], b"two")]

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))
    world.task("below", supply)
    only(world, reader, b"new", b"two")
