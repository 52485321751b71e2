"""Faulting tasks, and who fills their pages."""

from __future__ import annotations

from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.uapi import mman


@scenario(group="fills")
def two_readers_one_copy(world: World) -> None:
    """Two threads read a missing page of anonymous memory while it is copied in."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader a", lambda me: me.read(area[0]))
    world.task("reader b", lambda me: me.read(area[0]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.final("memory", lambda: world.peek(area[0]))


@scenario(group="fills")
def reader_copy_dontneed(world: World) -> None:
    """A thread reads a missing page while it is copied in and a third thread drops it."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.final("memory", lambda: world.peek(area[0]))
