"""WP_ASYNC and RWP_ASYNC with PAGEMAP_SCAN: every write is told of by some scan."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import both, only
from userfault.check.explore.scenarios.kinds import (
    ANON,
    HUGETLB,
    PRIVATE,
    SHMEM,
    WITH_ASYNC,
    WITH_RWP,
    mapped,
    of_each,
)
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman, pagemap

_FOUR = (ANON, SHMEM, PRIVATE, HUGETLB)
_TAKE = pagemap.PM_SCAN_WP_MATCHING | pagemap.PM_SCAN_CHECK_WPASYNC


def _tracked(world: World, kind: str) -> tuple[Area, Descriptor]:
    """Memory with b"old" in its first page, whose writes are tracked."""
    area = mapped(world, kind)
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP, features=Feature.WP_ASYNC)
    world.protect(uffd, area)
    return area, uffd


def _written(me: Caller, area: Area) -> bool:
    """Whether the first page was written since the last such scan."""
    found = me.scan(area.start, area.end, flags=_TAKE, mask=pagemap.PAGE_IS_WRITTEN)
    return bool(found)


def _writer(world: World, area: Area) -> Caller:
    """Writes the first page, and scans after it: the last to look."""

    def write_and_scan(me: Caller) -> object:
        me.write(area[0], b"new")
        return _written(me, area)

    return world.task("writer", write_and_scan)


@of_each(*_FOUR, group="tracking", kernels=WITH_ASYNC)
def scan_and_write(world: World, kind: str) -> None:
    """A page is written while two scans take what was written: one of them tells of it, once."""
    area, _ = _tracked(world, kind)

    last = _writer(world, area)
    scans = world.task("scanner", lambda me: [_written(me, area), _written(me, area)])
    both(
        world,
        "the write must be told of once",
        lambda: [last.value, *scans.value].count(True) == 1,
    )


@of_each(*_FOUR, group="tracking", kernels=WITH_ASYNC)
def two_scanners_and_a_write(world: World, kind: str) -> None:
    """Two scanners take what was written: a write is told to one of them, never to none."""
    area, _ = _tracked(world, kind)

    last = _writer(world, area)
    one = world.task("scanner a", lambda me: _written(me, area))
    two = world.task("scanner b", lambda me: _written(me, area))
    both(
        world,
        "the write must be told of once",
        lambda: [last.value, one.value, two.value].count(True) == 1,
    )


@of_each(*_FOUR, group="tracking", kernels=WITH_ASYNC)
def scan_and_fork(world: World, kind: str) -> None:
    """A tracked page is written while its process forks: the scan after it tells of it."""
    area, _ = _tracked(world, kind)

    last = _writer(world, area)
    other = world.task("scanner", lambda me: _written(me, area))
    world.task("forker", lambda me: me.fork(lambda child: child.write(area[0] + 1, b"c")))
    both(world, "a write was not told of", lambda: last.value or other.value)


@of_each(ANON, SHMEM, PRIVATE, group="tracking", kernels=WITH_ASYNC)
def scan_and_dontneed(world: World, kind: str) -> None:
    """A tracked page is dropped while it is written: who wrote after the drop is told of."""
    area, _ = _tracked(world, kind)

    last = _writer(world, area)
    other = world.task("scanner", lambda me: _written(me, area))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    both(world, "a write was not told of", lambda: last.value or other.value)


@of_each(SHMEM, group="tracking", kernels=WITH_ASYNC)
def scan_and_punch(world: World, kind: str) -> None:
    """A tracked file gets a hole while it is written: no write is kept from the scans."""
    area, _ = _tracked(world, kind)
    file = world.open(area.file)

    last = _writer(world, area)
    other = world.task("scanner", lambda me: _written(me, area))
    world.task("puncher", lambda me: me.punch(file, 0, area.step))
    both(world, "a write was not told of", lambda: last.value or other.value)


@of_each(*_FOUR, group="tracking", kernels=WITH_ASYNC)
def scan_and_unregister(world: World, kind: str) -> None:
    """Tracking ends while a page is written and scanned: the write goes on, no scan hangs."""
    area, uffd = _tracked(world, kind)
    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("scanner", lambda me: _written(me, area))
    world.task("leaver", lambda me: me.unregister(uffd, area[0], area.length))
    only(world, writer, 0)
    both(world, "the write was lost", lambda: world.peek(area[0], 3) == b"new")


@of_each(ANON, SHMEM, group="tracking", kernels=WITH_ASYNC)
def scan_and_mremap(world: World, kind: str) -> None:
    """A tracked page moves while it is written and scanned: the write moves along."""
    area, _ = _tracked(world, kind)
    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("scanner", lambda me: _written(me, area))
    world.task("mover", lambda me: me.mremap(area[0], area.length, area.length, 3, 0x100000))
    only(world, writer, 0, "SIGSEGV")
    moved = {0: b"new", "SIGSEGV": b"old"}
    both(world, "the write was lost", lambda: world.peek(0x100000, 3) == moved[writer.value])


@of_each(*_FOUR, group="tracking", kernels=WITH_RWP)
def scan_and_touches(world: World, kind: str) -> None:
    """RWP_ASYNC: a page is read while scans take what was touched: the touch is told of once."""
    area = mapped(world, kind)
    world.store(area[0], b"old")
    features = Feature.RWP | Feature.RWP_ASYNC
    uffd = world.uffd(area, mode=Mode.RWP, features=features)

    def touched(me: Caller) -> bool:
        return bool(me.scan(area.start, area.end, mask=pagemap.PAGE_IS_ACCESSED))

    def touch_and_scan(me: Caller) -> object:
        return [me.read(area[0], 3), touched(me)]

    reader = world.task("reader", touch_and_scan)
    world.task("protector", lambda me: me.rwprotect(uffd, area[0], area.length))
    world.task("scanner", touched)
    both(world, "wrong bytes", lambda: reader.value[0] == b"old")
