"""What old bugs of COPY, CONTINUE and of faults took."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.kinds import WITH_TABLE
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.model.files import filesystem
from userfault.uapi import mman


@scenario(group="old-bugs", kernels=WITH_TABLE)
def copy_into_a_replaced_mapping(world: World) -> None:
    """COPY waits for its source while its destination becomes the mapping of another file."""
    area, source = world.map("shmem"), world.map("anon")
    other = world.file("shmem")
    uffd, feeder = world.uffd(area), world.uffd(source)
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))

    def replace(me: Caller) -> object:
        me.mmap_fixed(area[0], PAGE, file=other, shared=True)
        return me.register(uffd, area[0], PAGE, Mode.MISSING)

    world.task("replacer", replace)
    world.task("feeder", lambda me: me.copy(feeder, source[0], b"x"))


@scenario(group="old-bugs")
def copy_into_a_private_file_mapping(world: World) -> None:
    """COPY fills a private mapping of a file that another mapping shows as it is."""
    area = world.map("shmem", shared=False)
    alias = world.map(file=area.file)
    uffd = world.uffd(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("reader", lambda me: me.read(alias[0]))


@scenario(group="old-bugs")
def huge_fill_of_a_shortened_file(world: World) -> None:
    """COPY of a huge page while its file becomes shorter."""
    area = world.map("hugetlb")
    uffd = world.uffd(area)
    file = world.open(area.file)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x", area.length))
    world.task("truncater", lambda me: me.truncate(file, 0))


@scenario(group="old-bugs")
def copy_into_a_full_file_system(world: World) -> None:
    """COPY waits for its source while another file takes the last block."""
    world.machine.files.mount.limit = 1
    area, source, other = world.map("shmem"), world.map("anon"), world.map("shmem")
    uffd, feeder = world.uffd(area), world.uffd(source)
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))
    world.task("feeder", lambda me: me.copy(feeder, source[0], b"x"))
    world.task("writer", lambda me: me.write(other[0], b"y"))


@scenario(group="old-bugs")
def two_continues_of_a_huge_page(world: World) -> None:
    """Two handlers answer the minor fault of one huge page."""
    area = world.map("hugetlb")
    alias = world.map(file=area.file)
    world.store(alias[0], b"x")
    uffd = world.uffd(area, mode=Mode.MINOR)
    world.task("handler a", lambda me: me.continue_(uffd, area[0], area.length))
    world.task("handler b", lambda me: me.continue_(uffd, area[0], area.length))


@scenario(group="old-bugs")
def protected_fill_of_read_only_memory(world: World) -> None:
    """COPY with MODE_WP into memory that becomes writable, and a write."""
    area = world.map("anon", prot=mman.PROT_READ)
    uffd = world.uffd(area, mode=Mode.MISSING | Mode.WP)
    both = mman.PROT_READ | mman.PROT_WRITE
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x", wp=True))

    def write(me: Caller) -> object:
        me.mprotect(area[0], PAGE, both)
        return me.write(area[0], b"y")

    world.task("writer", write, may_wait=True)


@scenario(group="old-bugs")
def two_faults_of_one_touch(world: World) -> None:
    """A page goes before the thread that waited for it has touched it, and comes again."""
    area = world.map("anon")
    uffd = world.uffd(area)

    def serve(me: Caller) -> object:
        first = me.copy(uffd, area[0], b"x")
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return [first, me.copy(uffd, area[0], b"y")]

    world.task("reader", lambda me: me.read(area[0]))
    world.task("handler", serve)


@scenario(group="old-bugs", kernels=("next",))
def continue_of_what_nobody_wrote(world: World) -> None:
    """CONTINUE of a page of guest_memfd that fallocate(2) made."""
    file = world.file("guest_memfd")
    filesystem.fallocate(world.machine.files, file, mman.FALLOC_FL_KEEP_SIZE, 0, PAGE)
    area = world.map(file=file)
    uffd = world.uffd(area, mode=Mode.MINOR)
    world.task("handler", lambda me: me.continue_(uffd, area[0]))
    world.task("reader", lambda me: me.read(area[0]))


@scenario(group="old-bugs", kernels=("next",))
def touch_beyond_the_end(world: World) -> None:
    """A touch of a mapping of guest_memfd that is longer than its file."""
    file = world.file("guest_memfd")
    area = world.map(file=file, pages=2)
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[1]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


@scenario(group="old-bugs")
def fill_against_a_removal(world: World) -> None:
    """COPY while MADV_DONTNEED tells of itself and waits."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("reader of events", lambda me: me.message(uffd))
