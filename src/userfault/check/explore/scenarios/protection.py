"""WRITEPROTECT and RWPROTECT, against faults, fork, and what takes pages away."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.calls_uffd import Message
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import (
    ANON,
    HUGETLB,
    PRIVATE,
    SHMEM,
    SMALL,
    WITH_RWP,
    mapped,
    of_each,
)
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman

_FOUR = (ANON, SHMEM, PRIVATE, HUGETLB)


def _stored(world: World, kind: str, mode: Mode = Mode.WP) -> tuple[Area, Descriptor]:
    """Memory with b"old" in its first page, registered."""
    area = mapped(world, kind)
    world.store(area[0], b"old")
    features = Feature.RWP if mode & Mode.RWP else Feature(0)
    return area, world.uffd(area, mode=mode, features=features)


def _lifted(me: Caller, uffd: Descriptor, area: Area) -> object:
    """Read one message, look at the page, and lift its protection: what was there."""
    told = me.message(uffd)
    if not isinstance(told, Message):
        return told
    seen = me.read(area[0], 3)
    me.writeprotect(uffd, area[0], area.length, protect=False)
    return seen


@of_each(*_FOUR, group="protect")
def protect_and_write(world: World, kind: str) -> None:
    """A page is protected while it is written: before, or its handler sees the old bytes first."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        seen = me.read(area[0], 3)
        return [seen, _lifted(me, uffd, area)] if seen == b"old" else [seen]

    world.task("writer", lambda me: me.write(area[0], b"new"))
    handler = world.task("handler", guard, may_wait=True)
    legal = ([b"new"], [b"old", b"old"])
    both(world, "it was written under protection", lambda: handler.value in legal)
    both(world, "the write was lost", lambda: world.peek(area[0], 3) == b"new")


@of_each(*_FOUR, group="protect")
def protect_and_two_writers(world: World, kind: str) -> None:
    """Two threads write a protected page: once it is lifted both go on, and no write is lost."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        return me.writeprotect(uffd, area[0], area.length, protect=False)

    world.task("writer a", lambda me: me.write(area[0], b"1"))
    world.task("writer b", lambda me: me.write(area[0] + 1, b"2"))
    world.task("handler", guard)
    both(world, "a write was lost", lambda: world.peek(area[0], 3) == b"12d")


@of_each(*_FOUR, group="protect")
def two_threads_protect_and_lift(world: World, kind: str) -> None:
    """One thread protects a page while another lifts it: a writer waits only if it is protected."""
    area, uffd = _stored(world, kind)
    writer = world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
    world.task("protector", lambda me: me.writeprotect(uffd, area[0], area.length))
    world.task("lifter", lambda me: me.writeprotect(uffd, area[0], area.length, protect=False))
    only(world, writer, 0, WAITS)


@of_each(*_FOUR, group="protect")
def protect_and_fork(world: World, kind: str) -> None:
    """A protected page is written while its process forks: the child is not protected by it."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        return me.writeprotect(uffd, area[0], area.length, protect=False)

    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", guard)
    world.task("forker", lambda me: me.fork(lambda child: child.write(area[0] + 1, b"c")))
    shared = kind in (SHMEM, HUGETLB)
    legal = (b"new", b"ncw") if shared else (b"new",)
    only(world, writer, 0, WAITS)
    both(
        world,
        "a write was lost",
        lambda: writer.value is None or world.peek(area[0], 3) in legal,
    )


@of_each(ANON, SHMEM, group="protect")
def protect_and_fork_with_event(world: World, kind: str) -> None:
    """A protected process forks with EVENT_FORK: its child is protected as it is, and is told."""
    area = mapped(world, kind)
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP, features=Feature.EVENT_FORK)

    def serve(me: Caller) -> object:
        told = me.message(uffd)
        return [me.writeprotect(of, area[0], protect=False) for of in (uffd, told.fork)]

    protector = world.task("protector", lambda me: me.writeprotect(uffd, area[0]))
    world.task(
        "forker",
        lambda me: me.fork(lambda child: child.write(area[0], b"c")),
        may_wait=True,
    )
    world.task("handler", serve)
    only(world, protector, 0, "EAGAIN")


@of_each(*_FOUR, group="protect")
def protect_and_dontneed(world: World, kind: str) -> None:
    """A protected page is dropped while it is written: private memory forgets, a file does not."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        return me.writeprotect(uffd, area[0], area.length, protect=False)

    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", guard)
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    only(world, writer, 0, WAITS)
    world.final("memory", lambda: world.peek(area[0], 3))


@of_each(SHMEM, HUGETLB, group="protect")
def protect_and_punch(world: World, kind: str) -> None:
    """A protected page gets a hole while it is written: fresh bytes, and the writer goes on."""
    area, uffd = _stored(world, kind)
    file = world.open(area.file)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        return me.writeprotect(uffd, area[0], area.length, protect=False)

    writer = world.task("writer", lambda me: me.write(area[0], b"w"))
    world.task("handler", guard)
    world.task("puncher", lambda me: me.punch(file, 0, area.step))
    only(world, writer, 0, WAITS)
    seen = (None, b"w\0\0")
    both(world, "old bytes are back", lambda: world.peek(area[0], 3) in seen)


@of_each(*_FOUR, group="protect")
def protect_and_munmap(world: World, kind: str) -> None:
    """A page is protected while it is unmapped: the writer is before it, or gets SIGSEGV."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        me.writeprotect(uffd, area[0], area.length, protect=False)
        return me.wake(uffd, area[0], area.length)

    writer = world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
    world.task("handler", guard)
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    only(world, writer, 0, "SIGSEGV")


@of_each(*SMALL, group="protect")
def protect_and_mremap(world: World, kind: str) -> None:
    """A page is protected while it moves: no write is lost, at either place."""
    area, uffd = _stored(world, kind)

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0])
        me.writeprotect(uffd, area[0], protect=False)
        return me.wake(uffd, area[0])

    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", guard)
    world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, 3, 0x100000))
    only(world, writer, 0, "SIGSEGV")
    both(
        world,
        "the write was lost",
        lambda: world.peek(0x100000, 3) == (b"new" if writer.value == 0 else b"old"),
    )


@of_each(*_FOUR, group="protect")
def protect_and_unregister(world: World, kind: str) -> None:
    """A protected range is unregistered while it is written: nothing stays protected."""
    area, uffd = _stored(world, kind)

    def leave(me: Caller) -> object:
        # Of WP ranges it wakes nobody (measured on 6.18).
        return [me.unregister(uffd, area[0], area.length), me.wake(uffd, area[0], area.length)]

    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("protector", lambda me: me.writeprotect(uffd, area[0], area.length))
    world.task("leaver", leave)
    only(world, writer, 0)


@of_each(ANON, SHMEM, HUGETLB, group="protect")
def copy_protected_and_write(world: World, kind: str) -> None:
    """A page is copied in protected while it is written: the handler sees it before the write."""
    area = mapped(world, kind)
    uffd = world.uffd(area, mode=Mode.MISSING | Mode.WP)

    def serve(me: Caller) -> object:
        me.copy(uffd, area[0], b"new", area.step, wp=True)
        seen = me.read(area[0], 3)
        me.writeprotect(uffd, area[0], area.length, protect=False)
        return seen

    world.task("writer", lambda me: me.write(area[0], b"w"))
    world.task("reader", lambda me: me.read(area[0], 3))
    handler = world.task("handler", serve)
    only(world, handler, b"new")
    both(world, "the write was lost", lambda: world.peek(area[0], 3) == b"wew")


@of_each(ANON, SHMEM, HUGETLB, group="protect")
def protect_of_what_is_copied_in(world: World, kind: str) -> None:
    """A page is protected while it is copied in: a writer waits only if it came before."""
    area = mapped(world, kind)
    uffd = world.uffd(area, mode=Mode.MISSING | Mode.WP)
    writer = world.task("writer", lambda me: me.write(area[0], b"w"), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("protector", lambda me: me.writeprotect(uffd, area[0], area.length))
    only(world, writer, 0, WAITS)


@scenario(group="protect")
def protect_while_a_page_is_copied_on_write(world: World) -> None:
    """A page shared by fork is protected while it is copied on write: no write is lost."""
    area, uffd = _stored(world, ANON)

    def split(me: Caller) -> object:
        me.fork(lambda child: child.read(area[0], 3))
        return me.write(area[0], b"new")

    def guard(me: Caller) -> object:
        me.writeprotect(uffd, area[0])
        return me.writeprotect(uffd, area[0], protect=False)

    writer = world.task("writer", split)
    world.task("handler", guard)
    only(world, writer, 0, WAITS)
    both(
        world,
        "the write was lost",
        lambda: writer.value is None or world.peek(area[0], 3) == b"new",
    )
    both(
        world,
        "the child sees the parent's write",
        lambda: all(one.value == b"old" for one in world.callers.values() if "child" in one.name),
    )


# --- RWP (7.3) -----------------------------------------------------------------------------------


def _unprotected(me: Caller, uffd: Descriptor, area: Area) -> object:
    me.rwprotect(uffd, area[0], area.length)
    return me.rwprotect(uffd, area[0], area.length, protect=False)


@of_each(*_FOUR, group="rwp", kernels=WITH_RWP)
def rwprotect_and_touches(world: World, kind: str) -> None:
    """A page is RW-protected and lifted while it is read and written: both go on, in any order."""
    area, uffd = _stored(world, kind, Mode.RWP)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", lambda me: _unprotected(me, uffd, area))
    only(world, reader, b"old", b"new")
    both(world, "the write was lost", lambda: world.peek(area[0], 3) == b"new")


@of_each(*_FOUR, group="rwp", kernels=WITH_RWP)
def rwprotect_and_fork(world: World, kind: str) -> None:
    """A RW-protected page is read while its process forks: the child is not protected by it."""
    area, uffd = _stored(world, kind, Mode.RWP)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: _unprotected(me, uffd, area))
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    only(world, reader, b"old")
    both(
        world,
        "the child read other bytes",
        lambda: all(one.value == b"old" for one in world.callers.values() if "child" in one.name),
    )


@of_each(*_FOUR, group="rwp", kernels=WITH_RWP)
def rwprotect_and_unregister(world: World, kind: str) -> None:
    """A RW-protected range is unregistered while it is read: nothing stays protected."""
    area, uffd = _stored(world, kind, Mode.RWP)

    def leave(me: Caller) -> object:
        return [me.unregister(uffd, area[0], area.length), me.wake(uffd, area[0], area.length)]

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("protector", lambda me: me.rwprotect(uffd, area[0], area.length))
    world.task("leaver", leave)
    only(world, reader, b"old")


@of_each(*SMALL, group="rwp", kernels=WITH_RWP)
def rwprotect_and_mremap(world: World, kind: str) -> None:
    """A RW-protected page moves while it is read: its bytes, or SIGSEGV, and nobody waits on."""
    area, uffd = _stored(world, kind, Mode.RWP)

    def guard(me: Caller) -> object:
        _unprotected(me, uffd, area)
        return me.wake(uffd, area[0])

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", guard)
    world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, 3, 0x100000))
    only(world, reader, b"old", "SIGSEGV")


@of_each(ANON, SHMEM, HUGETLB, group="rwp", kernels=WITH_RWP)
def rwprotect_and_copy(world: World, kind: str) -> None:
    """A page is RW-protected while it is copied in: what was copied is read, or is waited for."""
    area = mapped(world, kind)
    uffd = world.uffd(area, mode=Mode.MISSING | Mode.RWP, features=Feature.RWP)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("protector", lambda me: me.rwprotect(uffd, area[0], area.length))
    only(world, reader, b"new", WAITS)
