"""What old bugs left of write protection when its registration went."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman


@scenario(group="old-bugs")
def unregister_of_protected_memory(world: World) -> None:
    """A protected page is unregistered while a thread writes it."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)

    def unregister(me: Caller) -> object:
        me.writeprotect(uffd, area[0])
        answer = me.unregister(uffd, area[0], PAGE)
        return [answer, me.wake(uffd, area[0])]

    world.task("handler", unregister)
    world.task("writer", lambda me: me.write(area[0], b"new"))


@scenario(group="old-bugs")
def close_of_protected_memory(world: World) -> None:
    """The descriptor of a protected page is closed while a thread writes it."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)

    def close(me: Caller) -> object:
        return [me.writeprotect(uffd, area[0]), me.close(uffd)]

    world.task("handler", close)
    world.task("writer", lambda me: me.write(area[0], b"new"))


@scenario(group="old-bugs")
def fork_of_protected_memory(world: World) -> None:
    """fork(2) without EVENT_FORK of a page and a hole that are being protected."""
    area = world.map("anon", 2)
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP, features=Feature.WP_UNPOPULATED)
    world.task("protector", lambda me: me.writeprotect(uffd, area[0], 2 * PAGE))
    world.task("forker", lambda me: me.fork(lambda child: child.write(area[1], b"new")))


@scenario(group="old-bugs")
def mremap_of_protected_memory(world: World) -> None:
    """A page that is being protected moves away from its registration."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)
    to = 0x200000
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    world.task("protector", lambda me: me.writeprotect(uffd, area[0]))

    def move(me: Caller) -> object:
        me.mremap(area[0], PAGE, PAGE, flags, to)
        return me.write(to, b"new")

    world.task("mover", move)


@scenario(group="old-bugs")
def mprotect_of_protected_memory(world: World) -> None:
    """mprotect(2) takes the right to write a protected shared page, and gives it back."""
    area = world.map("shmem")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)
    world.task("protector", lambda me: me.writeprotect(uffd, area[0]))

    def change(me: Caller) -> object:
        me.mprotect(area[0], PAGE, mman.PROT_READ)
        return me.mprotect(area[0], PAGE, mman.PROT_READ | mman.PROT_WRITE)

    world.task("changer", change)
    world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
