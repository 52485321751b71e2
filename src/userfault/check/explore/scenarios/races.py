"""COPY while what it fills is taken away, moved, shared, or no longer its descriptor's."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, only
from userfault.check.explore.scenarios.kinds import (
    ALL,
    ANON,
    FILES,
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
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman

_ELSEWHERE = 0x100000  # where nothing is mapped
_MOVE = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_ZEROS = b"\0\0\0"


def _reader_and_copy(world: World, area: Area, *legal: object) -> None:
    """A task that reads the first page, and one that copies it in: b"new", or what is legal."""
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", area.step))
    only(world, reader, b"new", *legal)
    only(world, copier, area.step, "ENOENT", "EEXIST", "EAGAIN")


@of_each(*ALL, group="races")
def copy_and_munmap(world: World, kind: str) -> None:
    """A page is copied in while its memory is unmapped: the reader gets its bytes or SIGSEGV."""
    area = mapped(world, kind)
    _reader_and_copy(world, area, "SIGSEGV", WAITS)
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))


@of_each(ANON, SHMEM, PRIVATE, GUEST, group="races")
def copy_and_mremap(world: World, kind: str) -> None:
    """A page is copied in while its memory moves: what came before the move moves along."""
    area = mapped(world, kind)
    uffd = world.uffd(area)

    def move(me: Caller) -> object:
        moved = me.mremap(area[0], PAGE, PAGE, _MOVE, _ELSEWHERE)
        return me.read(_ELSEWHERE, 3) if isinstance(moved, int) else moved

    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    mover = world.task("mover", move)
    only(world, reader, b"new", "SIGSEGV", WAITS)
    only(world, copier, PAGE, "ENOENT", "EAGAIN")
    only(world, mover, b"new", _ZEROS)


@of_each(SHMEM, PRIVATE, HUGETLB, GUEST, group="races")
def copy_and_dontneed(world: World, kind: str) -> None:
    """A page is copied in while its mapping is dropped: a file keeps it, private memory not."""
    area = mapped(world, kind)
    _reader_and_copy(world, area, WAITS)
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))


@of_each(*FILES, group="races")
def copy_and_punch(world: World, kind: str) -> None:
    """A page is copied in while its file gets a hole there: it is whole or not there at all."""
    area = mapped(world, kind)
    _reader_and_copy(world, area, WAITS)
    file = world.open(area.file)
    world.task("puncher", lambda me: me.punch(file, 0, area.step))


@of_each(SHMEM, PRIVATE, HUGETLB, group="races")
def copy_and_truncate(world: World, kind: str) -> None:
    """A page is copied in while its file is cut: nothing is left beyond the end."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", area.step))
    world.task("truncater", lambda me: me.truncate(file, 0))
    only(world, reader, b"new", "SIGBUS", WAITS)
    only(world, copier, area.step, "EFAULT", "ENOMEM", "EEXIST")
    if kind != PRIVATE:
        world.check(lambda: "a page lies beyond the end" if area.file.cache else None)


@of_each(ANON, SHMEM, PRIVATE, HUGETLB, group="races")
def copy_and_fork(world: World, kind: str) -> None:
    """A page is copied in while its process forks: the child sees its bytes or fresh memory."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: copied(me, uffd, area[0], b"new", area.step))
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    # Without EVENT_FORK nobody serves the child: it makes the page of a file itself.
    only(world, reader, b"new", WAITS, *([] if kind == ANON else [_ZEROS]))
    world.check(lambda: _wrong_child(world, b"new", _ZEROS))


def _wrong_child(world: World, *legal: object) -> str | None:
    for caller in world.callers.values():
        if "child" in caller.name and caller.ended and caller.value not in legal:
            return f"{caller.name} read {caller.result}"
    return None


@of_each(ANON, SHMEM, group="races")
def copy_and_fork_with_event(world: World, kind: str) -> None:
    """A process forks with EVENT_FORK while a page is copied in: the copy is done or EAGAIN."""
    area = mapped(world, kind)
    uffd = world.uffd(area, features=Feature.EVENT_FORK)

    def serve(me: Caller) -> object:
        told = me.message(uffd)
        return [copied(me, of, area[0], b"new", PAGE) for of in (uffd, told.fork)]

    copier = world.task("copier", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)), may_wait=True)
    world.task("handler", serve)
    only(world, copier, PAGE, "EAGAIN", "EEXIST")
    world.check(lambda: _wrong_child(world, b"new"))


@of_each(ANON, SHMEM, HUGETLB, GUEST, group="races")
def copy_and_unregister(world: World, kind: str) -> None:
    """A page is copied in while its range is unregistered: the reader gets bytes or zeros."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", area.step))
    world.task("unregisterer", lambda me: me.unregister(uffd, area[0], area.length))
    only(world, reader, b"new", _ZEROS)
    only(world, copier, area.step, "ENOENT", "EEXIST", "EAGAIN")


@of_each(*SMALL, group="races")
def copy_and_another_descriptor(world: World, kind: str) -> None:
    """A range goes from one descriptor to another while it is copied in: nobody waits on."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    other = world.uffd()

    def take_over(me: Caller) -> object:
        left = me.unregister(uffd, area[0], area.length)
        me.register(other, area[0], area.length, int(Mode.MISSING))
        return [left, copied(me, other, area[0], b"two", PAGE)]

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    world.task("successor", take_over)
    only(world, reader, b"new", b"two", _ZEROS, WAITS)


@of_each(ANON, SHMEM, group="races")
def copy_and_mprotect(world: World, kind: str) -> None:
    """A page is copied in while its memory becomes read-only and writable again: no byte less."""
    area = mapped(world, kind)

    def protect(me: Caller) -> object:
        first = me.mprotect(area[0], PAGE, mman.PROT_READ)
        return [first, me.mprotect(area[0], PAGE, mman.PROT_READ | mman.PROT_WRITE)]

    uffd = world.uffd(area)
    writer = world.task("writer", lambda me: me.write(area[0], b"w"))
    world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    world.task("protector", protect)
    only(world, writer, 0, "SIGSEGV")
    world.final("memory", lambda: world.peek(area[0], 3))


@of_each(ANON, SHMEM, HUGETLB, group="races")
def copy_and_a_new_mapping(world: World, kind: str) -> None:
    """Memory is replaced by unregistered memory while it is filled: no byte gets there."""
    area = mapped(world, kind)
    _reader_and_copy(world, area, _ZEROS, WAITS)

    def replace(me: Caller) -> object:
        me.mmap_fixed(area[0], area.length)
        return me.read(area[0], 3)

    replacer = world.task("replacer", replace)
    only(world, replacer, _ZEROS)


@of_each(*SMALL, group="races")
def zeropage_and_munmap(world: World, kind: str) -> None:
    """A page is filled with zeros while its memory is unmapped: zeros, or SIGSEGV."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: [me.zeropage(uffd, area[0]), me.wake(uffd, area[0])])
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    only(world, reader, _ZEROS, "SIGSEGV", WAITS)


@of_each(*SMALL, group="races", kernels=("6.12", "6.17", "6.18", "7.2", "7.3", "next"))
def poison_and_dontneed(world: World, kind: str) -> None:
    """A page is poisoned while it is dropped: its reader gets SIGBUS, or waits for a fill."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("poisoner", lambda me: me.poison(uffd, area[0]))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    only(world, reader, "SIGBUS", WAITS)


@of_each(*SMALL, group="races", kernels=("6.17", "6.18", "7.2", "7.3", "next"))
def copy_and_guard(world: World, kind: str) -> None:
    """A guard is installed where a page is copied in: the reader gets bytes or SIGSEGV."""
    area = mapped(world, kind)
    _reader_and_copy(world, area, "SIGSEGV", WAITS)
    world.task("guard", lambda me: me.madvise(area[0], area.length, mman.MADV_GUARD_INSTALL))
