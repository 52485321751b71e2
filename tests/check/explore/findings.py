"""What exploration of released kernels has found: scenarios that do not hold there.

docs/findings.md tells of each; `reproducers/` shows them on the running kernel.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario, Scenarios
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.expecting import both
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman, pagemap

findings = Scenarios()
_TAKE = pagemap.PM_SCAN_WP_MATCHING | pagemap.PM_SCAN_CHECK_WPASYNC


@findings()
def scan_and_dontneed_of_huge_pages(world: World) -> None:
    """A tracked huge page is written, dropped and scanned: the write must be told of."""
    area = world.map("hugetlb")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP, features=Feature.WP_ASYNC)
    world.protect(uffd, area)

    def write_and_scan(me: Caller) -> object:
        me.write(area[0], b"new")
        return me.scan(area.start, area.end, flags=_TAKE, mask=pagemap.PAGE_IS_WRITTEN)

    writer = world.task("writer", write_and_scan)
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    both(world, "a write was not told of", lambda: writer.value)


@findings()
def copy_and_what_took_its_place(world: World) -> None:
    """While COPY reads its source, its destination becomes a file's: no byte must get there."""
    area = world.map("anon")
    source = world.map("anon")
    file = world.file("shmem")
    uffd = world.uffd(area)
    below = world.uffd(source)

    def replace(me: Caller) -> object:
        me.message(below)  # so COPY is reading its source
        me.mmap_fixed(area[0], area.length, file=file, shared=True)
        me.register(uffd, area[0], area.length, int(Mode.MISSING))
        return me.copy(below, source[0], b"old")

    copier = world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))
    world.task("replacer", replace)
    both(world, "it filled what took its place", lambda: copier.value == "EAGAIN")


@findings()
def copy_and_another_page_of_the_file(world: World) -> None:
    """While COPY reads its source, the file is mapped a page lower: none of its pages is filled."""
    room = world.map("anon", 2)
    step = room.step
    source = world.map("anon")
    file = world.file("shmem", 2)
    uffd = world.uffd()
    below = world.uffd(source)

    def copy(me: Caller) -> object:
        me.mmap_fixed(room[1], step, file=file, shared=True)
        me.register(uffd, room[1], step, int(Mode.MISSING))
        return me.copy(uffd, room[1], source[0])

    def replace(me: Caller) -> object:
        me.message(below)  # so COPY is reading its source
        me.mmap_fixed(room[0], room.length, file=file, shared=True)
        me.register(uffd, room[0], room.length, int(Mode.MISSING))
        return me.copy(below, source[0], b"old")

    copier = world.task("handler", copy)
    world.task("replacer", replace)
    both(world, "it filled another page of the file", lambda: copier.value == "EAGAIN")


@findings()
def copy_and_another_huge_file(world: World) -> None:
    """While COPY reads its source, one huge file is replaced by another: no byte gets there."""
    area = world.map("hugetlb")
    source = world.map("hugetlb")
    file = world.file("hugetlb")
    uffd = world.uffd(area)
    below = world.uffd(source)

    def replace(me: Caller) -> object:
        me.message(below)  # so COPY is reading its source
        me.mmap_fixed(area[0], area.length, file=file, shared=True)
        me.register(uffd, area[0], area.length, int(Mode.MISSING))
        return me.copy(below, source[0], b"old", area.step)

    copier = world.task("handler", lambda me: me.copy(uffd, area[0], source[0], area.step))
    world.task("replacer", replace)
    both(world, "it filled another file", lambda: copier.value == "EAGAIN")


@findings()
def copy_and_a_mapping_cut_below(world: World) -> None:
    """While COPY reads its source, its mapping is cut below its page: it has no need to fail."""
    area = world.map("shmem", 2)
    source = world.map("anon")
    uffd = world.uffd(area)
    below = world.uffd(source)

    def cut(me: Caller) -> object:
        me.message(below)  # so COPY is reading its source
        me.munmap(area[0], area.step)
        return me.copy(below, source[0], b"old")

    copier = world.task("handler", lambda me: me.copy(uffd, area[1], source[0]))
    world.task("cutter", cut)
    both(world, "it is to be tried again", lambda: copier.value == area.step)


FINDINGS: dict[str, Scenario] = findings.by_name
