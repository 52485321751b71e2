"""MOVE, against everything that touches where a page comes from or goes to."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode
from userfault.uapi import mman

_KERNELS = ("6.12", "6.17", "6.18", "7.2", "7.3", "next")
_ZEROS = b"\0\0\0"


def _two_areas(world: World) -> tuple[Area, Area, Descriptor]:
    """Where a page is to go, where it is (b"src"), and the descriptor."""
    source = world.map("anon")
    area = world.map("anon")
    world.store(source[0], b"src")
    return area, source, world.uffd(area)


def _moved(me: Caller, uffd: Descriptor, area: Area, source: Area) -> object:
    """MOVE; where it fails whoever waits looks again."""
    done = me.move(uffd, area[0], source[0])
    if done != PAGE:
        me.wake(uffd, area[0])
    return done


@scenario(group="move", kernels=_KERNELS)
def move_and_two_readers(world: World) -> None:
    """A page moves while both its old and its new place are read: it is at one of them."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    before = world.task("old place", lambda me: me.read(source[0], 3))
    mover = world.task("mover", lambda me: _moved(me, uffd, area, source))
    only(world, reader, b"src")
    only(world, before, b"src", _ZEROS)
    only(world, mover, PAGE)


@scenario(group="move", kernels=_KERNELS)
def move_and_write_to_the_source(world: World) -> None:
    """A page moves while it is written: the write goes along, or to a fresh page, never lost."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("writer", lambda me: me.write(source[0], b"new"))
    only(world, reader, b"src", b"new")

    def holds() -> bool:
        return (world.peek(area[0], 3), world.peek(source[0], 3)) in (
            (b"new", None),
            (b"src", b"new"),
        )

    both(world, "the write is at neither place", holds)


@scenario(group="move", kernels=_KERNELS)
def two_moves_of_one_page(world: World) -> None:
    """Two threads move one page to two places: one gets it, the other ENOENT."""
    source = world.map("anon")
    area = world.map("anon", 2)
    world.store(source[0], b"src")
    uffd = world.uffd(area)
    one = world.task("mover a", lambda me: me.move(uffd, area[0], source[0]))
    two = world.task("mover b", lambda me: me.move(uffd, area[1], source[0]))
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, reader, b"src", WAITS)
    both(world, "one of them must get it", lambda: {one.value, two.value} == {PAGE, "ENOENT"})


@scenario(group="move", kernels=_KERNELS)
def two_moves_to_one_place(world: World) -> None:
    """Two pages are moved to one place: one gets there, the other stays where it is."""
    area, source, uffd = _two_areas(world)
    other = world.map("anon")
    world.store(other[0], b"two")
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("mover a", lambda me: me.move(uffd, area[0], source[0]))
    world.task("mover b", lambda me: me.move(uffd, area[0], other[0]))
    only(world, reader, b"src", b"two")

    def holds() -> bool:
        left = (world.peek(source[0], 3), world.peek(other[0], 3))
        return left == ((None, b"two") if reader.value == b"src" else (b"src", None))

    both(world, "a page is at two places, or at none", holds)


@scenario(group="move", kernels=_KERNELS)
def moves_there_and_back(world: World) -> None:
    """Two threads move a page there and back: it ends at one of the two places, whole."""
    area = world.map("anon", 2)
    world.store(area[1], b"src")
    uffd = world.uffd(area)
    world.task("there", lambda me: me.move(uffd, area[0], area[1]))
    world.task("back", lambda me: me.move(uffd, area[1], area[0]))
    reader = world.task("reader", lambda me: me.read(area[1], 3), may_wait=True)
    only(world, reader, b"src", WAITS)

    def holds() -> bool:
        places = sorted((world.peek(area[0], 3) or b"", world.peek(area[1], 3) or b""))
        return places == [b"", b"src"]

    both(world, "the page is at two places, or at none", holds)


@scenario(group="move", kernels=_KERNELS)
def move_and_copy(world: World) -> None:
    """A page is moved and copied to one place: one of the two, and what lost changes nothing."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    mover = world.task("mover", lambda me: me.move(uffd, area[0], source[0]))
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new"))

    def holds() -> bool:
        left = world.peek(source[0], 3)
        ends = {(PAGE, "EEXIST"): (b"src", None), ("EEXIST", PAGE): (b"new", b"src")}
        return (reader.value, left) == ends.get((mover.value, copier.value))

    both(world, "both, or neither, filled the page", holds)


@scenario(group="move", kernels=_KERNELS)
def move_and_dontneed_of_the_source(world: World) -> None:
    """A page moves while it is dropped: it is at its new place, or nowhere."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    mover = world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("dropper", lambda me: me.madvise(source[0], PAGE, mman.MADV_DONTNEED))
    only(world, reader, b"src", WAITS)
    only(world, mover, PAGE, "ENOENT")


@scenario(group="move", kernels=_KERNELS)
def move_and_dontneed_of_the_destination(world: World) -> None:
    """A page moves while its new place is dropped: there or gone, never back at its old one."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    only(world, reader, b"src", WAITS)
    both(world, "it is back", lambda: world.peek(source[0]) is None)


@scenario(group="move", kernels=_KERNELS)
def move_and_munmap_of_the_source(world: World) -> None:
    """A page moves while its old place is unmapped: it was moved before, or is gone."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    mover = world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("unmapper", lambda me: me.munmap(source[0], PAGE))
    only(world, reader, b"src", WAITS)
    only(world, mover, PAGE, "ENOENT", "EINVAL")


@scenario(group="move", kernels=_KERNELS)
def move_and_munmap_of_the_destination(world: World) -> None:
    """A page moves while its new place is unmapped: it went with it, or stays where it was."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    mover = world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("unmapper", lambda me: me.munmap(area[0], PAGE))
    only(world, reader, b"src", "SIGSEGV")
    left = {PAGE: None, "ENOENT": b"src", "EINVAL": b"src"}
    both(world, "it is at neither place", lambda: world.peek(source[0], 3) == left[mover.value])


@scenario(group="move", kernels=_KERNELS)
def move_and_mremap_of_the_source(world: World) -> None:
    """A page moves while its old place is moved by mremap: it is at one place, whole."""
    area, source, uffd = _two_areas(world)
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("remapper", lambda me: me.mremap(source[0], PAGE, PAGE, 3, 0x100000))
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, reader, b"src", WAITS)

    def holds() -> bool:
        places = sorted((world.peek(area[0], 3) or b"", world.peek(0x100000, 3) or b""))
        return places == [b"", b"src"]

    both(world, "the page is at two places, or at none", holds)


@scenario(group="move", kernels=_KERNELS)
def move_and_fork(world: World) -> None:
    """A page moves while its process forks: EBUSY once it is shared, and the child has one."""
    area, source, uffd = _two_areas(world)

    def child(me: Caller) -> object:
        return [me.read(source[0], 3), me.read(area[0], 3)]

    world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    mover = world.task("mover", lambda me: me.move(uffd, area[0], source[0]))
    world.task("forker", lambda me: me.fork(child))
    only(world, mover, PAGE, "EBUSY")

    def holds() -> bool:
        seen = [one.value for one in world.callers.values() if "child" in one.name]
        return seen in ([[b"src", _ZEROS]], [[_ZEROS, b"src"]])

    both(world, "the child has the page twice, or not at all", holds)


@scenario(group="move", kernels=_KERNELS)
def move_and_fork_and_write(world: World) -> None:
    """A page is written and moved while its process forks: the child keeps what it was given."""
    area, source, uffd = _two_areas(world)
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("writer", lambda me: me.write(source[0], b"new"))
    world.task("forker", lambda me: me.fork(lambda child: child.read(source[0], 3)))
    seen = (b"src", b"new", _ZEROS)
    both(
        world,
        "the child read other bytes",
        lambda: all(one.value in seen for one in world.callers.values() if "child" in one.name),
    )


@scenario(group="move", kernels=_KERNELS)
def move_and_unregister(world: World) -> None:
    """A page moves while its new place is unregistered: it got there, or is where it was."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    mover = world.task("mover", lambda me: me.move(uffd, area[0], source[0]))
    world.task("leaver", lambda me: me.unregister(uffd, area[0], PAGE))
    only(world, reader, b"src", _ZEROS)
    only(world, mover, PAGE, "EINVAL", "EEXIST", "ENOENT")
    left = {PAGE: None}
    both(
        world,
        "it is at neither place",
        lambda: world.peek(source[0], 3) == left.get(mover.value, b"src"),
    )


@scenario(group="move", kernels=_KERNELS)
def move_and_close(world: World) -> None:
    """A page moves while its descriptor is closed: moved, or where it was; nobody waits on."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("mover", lambda me: me.move(uffd, area[0], source[0]))
    world.task("closer", lambda me: me.close(uffd))
    only(world, reader, b"src", _ZEROS)


@scenario(group="move", kernels=_KERNELS)
def move_and_mprotect_of_the_source(world: World) -> None:
    """A page moves while its old place becomes read-only: EINVAL then, else it is moved."""
    area, source, uffd = _two_areas(world)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    mover = world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("protector", lambda me: me.mprotect(source[0], PAGE, mman.PROT_READ))
    only(world, reader, b"src", WAITS)
    only(world, mover, PAGE, "EINVAL")


@scenario(group="move", kernels=_KERNELS)
def move_of_a_protected_page(world: World) -> None:
    """A page is protected where it comes from, and moves: a write at either place is right."""
    area, source, uffd = _two_areas(world)
    other = world.uffd(source, mode=Mode.WP)
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("protector", lambda me: me.writeprotect(other, source[0]))
    writer = world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
    only(world, writer, 0, WAITS)


@scenario(group="move", kernels=_KERNELS)
def move_of_the_zero_page(world: World) -> None:
    """The zero page moves while it is written: one place has the write, the other zeros."""
    source = world.map("anon")
    area = world.map("anon")
    uffd = world.uffd(area)

    def touch_and_write(me: Caller) -> object:
        return [me.read(source[0]), me.write(source[0], b"new")]

    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("mover", lambda me: _moved(me, uffd, area, source))
    world.task("writer", touch_and_write)
    only(world, reader, _ZEROS, b"new", WAITS)
