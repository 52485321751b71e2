"""CONTINUE: a page of the page cache is mapped, while the file loses it or others map it."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import FILES, GUEST, HUGETLB, SHMEM, mapped, of_each
from userfault.kernel.modes import Mode
from userfault.uapi import mman

_ZEROS = b"\0\0\0"


def _cached(world: World, kind: str, mode: Mode = Mode.MINOR) -> tuple[Area, Area, Descriptor]:
    """Memory that is registered, its file's other mapping, where b"old" is, and the descriptor."""
    area = mapped(world, kind)
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    return area, alias, world.uffd(area, mode=mode)


def continued(me: Caller, uffd: Descriptor, area: Area) -> object:
    """CONTINUE; where it fails whoever waits looks again."""
    done = me.continue_(uffd, area[0], area.step)
    if done != area.step:
        me.wake(uffd, area[0], area.step)
    return done


@of_each(*FILES, group="continue")
def continue_and_punch(world: World, kind: str) -> None:
    """A cached page is mapped while its file gets a hole: its bytes, or a page of zeros."""
    area, _, uffd = _cached(world, kind)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    handler = world.task("handler", lambda me: continued(me, uffd, area))
    world.task("puncher", lambda me: me.punch(file, 0, area.step))
    only(world, reader, b"old", _ZEROS, WAITS)
    only(world, handler, area.step, "EFAULT", "EEXIST")
    both(world, "the hole is not one", lambda: area.file.cache == {} or reader.value == _ZEROS)


@of_each(SHMEM, HUGETLB, group="continue")
def continue_and_truncate(world: World, kind: str) -> None:
    """A cached page is mapped while its file is cut: its bytes, or SIGBUS, and nothing is left."""
    area, _, uffd = _cached(world, kind)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    handler = world.task("handler", lambda me: continued(me, uffd, area))
    world.task("truncater", lambda me: me.truncate(file, 0))
    only(world, reader, b"old", "SIGBUS", WAITS)
    only(world, handler, area.step, "EFAULT", "EINVAL")
    both(world, "a page is left", lambda: not area.file.cache and world.peek(area[0]) is None)


@of_each(SHMEM, HUGETLB, group="continue")
def continue_while_cut_and_grown(world: World, kind: str) -> None:
    """The file is cut and grows again while its page is mapped: old bytes never come back."""
    area, _, uffd = _cached(world, kind, Mode.MISSING | Mode.MINOR)
    file = world.open(area.file)

    def recreate(me: Caller) -> object:
        me.truncate(file, 0)
        return me.truncate(file, area.length)

    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("truncater", recreate)
    only(world, reader, b"old", "SIGBUS", WAITS)
    both(world, "old bytes are back", lambda: not area.file.cache)


@of_each(*FILES, group="continue")
def two_continues(world: World, kind: str) -> None:
    """Two handlers map one cached page: one gets EEXIST, the reader its bytes."""
    area, _, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    one = world.task("handler a", lambda me: me.continue_(uffd, area[0], area.step))
    two = world.task("handler b", lambda me: me.continue_(uffd, area[0], area.step))
    only(world, reader, b"old")
    both(world, "one of them must map it", lambda: {one.value, two.value} == {area.step, "EEXIST"})


@of_each(*FILES, group="continue")
def continue_and_copy(world: World, kind: str) -> None:
    """A cached page is mapped and copied in at once: the file's bytes are never replaced."""
    area, alias, uffd = _cached(world, kind, Mode.MISSING | Mode.MINOR)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("continuer", lambda me: continued(me, uffd, area))
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    only(world, reader, b"old")
    only(world, copier, "EEXIST")
    both(world, "the file's bytes were replaced", lambda: world.peek(alias[0], 3) == b"old")


@of_each(*FILES, group="continue")
def continue_and_write_through_alias(world: World, kind: str) -> None:
    """A page is mapped while it is written by another mapping: both see one page."""
    area, alias, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("writer", lambda me: me.write(alias[0], b"new"))
    only(world, reader, b"old", b"new")
    both(world, "two pages of one index", lambda: world.peek(area[0], 3) == b"new")


@of_each(*FILES, group="continue")
def continue_and_munmap(world: World, kind: str) -> None:
    """A cached page is mapped while its mapping goes: the file keeps it."""
    area, alias, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    only(world, reader, b"old", "SIGSEGV", WAITS)
    both(world, "the file lost its page", lambda: world.peek(alias[0], 3) == b"old")


@of_each(SHMEM, GUEST, group="continue")
def continue_and_mremap(world: World, kind: str) -> None:
    """A cached page is mapped while its mapping moves: the bytes are there at either place."""
    area, _, uffd = _cached(world, kind)

    def move(me: Caller) -> object:
        me.mremap(area[0], area.length, area.length, 3, 0x100000)
        return me.read(0x100000, 3)

    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: continued(me, uffd, area))
    mover = world.task("mover", move)
    only(world, reader, b"old", "SIGSEGV", WAITS)
    only(world, mover, b"old")


@of_each(*FILES, group="continue")
def continue_and_dontneed(world: World, kind: str) -> None:
    """A cached page is mapped and dropped again: the reader has its bytes, or is told anew."""
    area, _, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    only(world, reader, b"old", WAITS)


@of_each(*FILES, group="continue")
def continue_and_unregister(world: World, kind: str) -> None:
    """A cached page is mapped while its range is unregistered: the reader gets its bytes."""
    area, _, uffd = _cached(world, kind)

    def leave(me: Caller) -> object:
        # Of MINOR ranges it wakes nobody (measured on 6.18).
        return [me.unregister(uffd, area[0], area.length), me.wake(uffd, area[0], area.length)]

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("leaver", leave)
    only(world, reader, b"old")


@of_each(*FILES, group="continue")
def continue_and_fork(world: World, kind: str) -> None:
    """A cached page is mapped while its process forks: the child reads the file's bytes."""
    area, _, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    only(world, reader, b"old")
    world.check(
        lambda: next(
            (
                f"{caller.name} read {caller.result}"
                for caller in world.callers.values()
                if "child" in caller.name and caller.value != b"old"
            ),
            None,
        )
    )


@of_each(SHMEM, HUGETLB, group="continue", kernels=("6.12", "6.17", "6.18", "7.2", "7.3", "next"))
def continue_and_poison(world: World, kind: str) -> None:
    """A cached page is mapped and poisoned at once: bytes or SIGBUS, and the file keeps them."""
    area, alias, uffd = _cached(world, kind)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: continued(me, uffd, area))
    world.task("poisoner", lambda me: me.poison(uffd, area[0], area.step))
    only(world, reader, b"old", "SIGBUS")
    both(world, "the file lost its page", lambda: world.peek(alias[0], 3) == b"old")
