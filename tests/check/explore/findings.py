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


FINDINGS: dict[str, Scenario] = findings.by_name
