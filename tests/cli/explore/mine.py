"""A user's own scenarios: one that breaks, and one too large to be walked whole."""

from __future__ import annotations

from collections.abc import Callable

from userfault.check.explore import Caller, World, scenario
from userfault.uapi import mman


@scenario()
def a_page_stays(world: World) -> None:
    """A page that was copied in is there in the end (it need not be)."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("<reader>", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"<new>"))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.check(lambda: None if world.peek(area[0]) else "the page is gone")


@scenario()
def a_crowd(world: World) -> None:
    """Four threads touch four pages, and two handlers serve them."""
    area = world.map("anon", 4)
    uffd = world.uffd(area)

    def serve(me: Caller) -> None:
        for _ in range(4):
            message = me.message(uffd)
            me.copy(uffd, message.address, b"page")

    def reader(page: int) -> Callable[[Caller], object]:
        return lambda me: me.read(area[page])

    for page in range(4):
        world.task(f"reader {page}", reader(page))
    world.task("handler a", serve, may_wait=True)
    world.task("handler b", serve, may_wait=True)
