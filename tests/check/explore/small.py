"""Scenarios small enough to be walked whole by plain search, and unlike each other.

Together they touch every kind of place that a step records.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario, Scenarios
from userfault.check.explore.building.world import World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.model.mm.madvise import madvise
from userfault.uapi import mman

small = Scenarios()


@small()
def shmem_copy_and_punch(world: World) -> None:
    """A read of shared memory, COPY and a hole."""
    area = world.map("shmem")
    uffd = world.uffd(area)
    file = world.open(area.file)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("puncher", lambda me: me.punch(file, 0))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def continue_and_truncate(world: World) -> None:
    """A minor fault, CONTINUE, and the file that becomes shorter."""
    area = world.map("shmem")
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    uffd = world.uffd(area, mode=Mode.MINOR)
    file = world.open(area.file)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.continue_(uffd, area[0]))
    world.task("truncater", lambda me: me.truncate(file, 0))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def protect_and_unregister(world: World) -> None:
    """A write to a page that is protected, freed, and unregistered."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, mode=Mode.WP)

    def protect(me: Caller) -> object:
        first = me.writeprotect(uffd, area[0])
        return [first, me.writeprotect(uffd, area[0], protect=False)]

    world.task("writer", lambda me: me.write(area[0], b"new"), may_wait=True)
    world.task("protector", protect)
    world.task("unregisterer", lambda me: me.unregister(uffd, area[0], PAGE))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def munmap_with_event(world: World) -> None:
    """A read, munmap that sends its event, and a handler that looks for it."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_UNMAP)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], b"x")
        return [done, me.message(uffd, wait=False), me.message(uffd, wait=False)]

    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("unmapper", lambda me: me.munmap(area[0], PAGE), may_wait=True)
    world.task("handler", serve)


@small()
def remap_with_event(world: World) -> None:
    """A read, mremap that sends its event, and a handler that looks for it."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_REMAP)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], b"x")
        return [done, me.message(uffd, wait=False), me.message(uffd, wait=False)]

    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, 3, 0x100000), may_wait=True)
    world.task("handler", serve)


@small()
def fork_with_event(world: World) -> None:
    """fork while another thread writes what is registered for WP, and a handler."""
    area = world.map("anon")
    world.store(area[0], b"old")
    uffd = world.uffd(area, features=Feature.EVENT_FORK, mode=Mode.WP)
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0], 3)))
    world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("handler", lambda me: me.message(uffd))


@small()
def close_while_filling(world: World) -> None:
    """A read, COPY, and the descriptor that is closed."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("closer", lambda me: me.close(uffd))


@small()
def huge_page_dropped(world: World) -> None:
    """hugetlb: a read, COPY and MADV_DONTNEED."""
    area = world.map("hugetlb")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x", area.length))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def move_of_a_written_page(world: World) -> None:
    """A read, MOVE, and a write to where the page came from."""
    area = world.map("anon", 2)
    world.store(area[1], b"source")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("mover", lambda me: me.move(uffd, area[0], area[1]))
    world.task("writer", lambda me: me.write(area[1], b"w"), may_wait=True)
    world.final("memory", lambda: (world.peek(area[0]), world.peek(area[1])))


@small()
def private_copies(world: World) -> None:
    """Two writes to one private page of a file, and COPY."""
    area = world.map("shmem", shared=False)
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    uffd = world.uffd(area)
    world.task("writer a", lambda me: me.write(area[0], b"1"), may_wait=True)
    world.task("writer b", lambda me: me.write(area[0] + 1, b"2"), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"zz"))
    world.final("memory", lambda: (world.peek(area[0], 3), world.peek(alias[0], 3)))


@small()
def truncation_while_a_copy_is_in_the_cache(world: World) -> None:
    """COPY that has to take its page back, while truncation waits for that page's lock."""
    area = world.map("shmem")
    uffd = world.uffd(area)
    file = world.open(area.file)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"copy"))
    world.task("truncater", lambda me: me.truncate(file, 0))
    world.task("writer", lambda me: me.pwrite(file, 0, b"W"))
    world.task("reader", lambda me: me.pread(file, 0, 4))
    world.final("memory", lambda: world.peek(area[0]))


@small()
def huge_page_dropped_in_part(world: World) -> None:
    """A transparent huge page: a write makes it, a read looks at it, MADV_DONTNEED splits it."""
    huge = 2 << 20
    area = world.map("anon", 1024)
    base = (area[0] + huge - 1) & -huge
    madvise(world.process.threads[0], world.process.mm, area[0], area.length, mman.MADV_HUGEPAGE)
    world.task("writer", lambda me: me.write(base + 5 * PAGE, b"w"))
    world.task("reader", lambda me: me.read(base))
    world.task("dropper", lambda me: me.madvise(base, PAGE, mman.MADV_DONTNEED))
    world.final("memory", lambda: (world.peek(base + 5 * PAGE), world.peek(base)))


@small()
def written_pages_scanned(world: World) -> None:
    """WP_ASYNC: a write, and PAGEMAP_SCAN that reports it and protects again."""
    area = world.map("anon", 2)
    world.store(area[0], b"x")
    uffd = world.uffd(area, mode=Mode.WP, features=Feature.WP_ASYNC)

    def scan(me: Caller) -> object:
        me.writeprotect(uffd, area[0], area.length)
        first = me.scan(area[0], area.end, mask=2)
        return [first, me.scan(area[0], area.end, flags=3, mask=2)]

    world.task("writer a", lambda me: me.write(area[0], b"1"))
    world.task("writer b", lambda me: me.write(area[1], b"2"))
    world.task("scanner", scan)


@small()
def two_contexts_for_one_range(world: World) -> None:
    """Two registrations that want the same pages, and a read."""
    area = world.map("anon", 2)
    one, other = world.uffd(), world.uffd()
    world.task("first", lambda me: me.register(one, area[0], PAGE, Mode.MISSING))
    world.task("second", lambda me: me.register(other, area[0], area.length, Mode.MISSING))
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)


@small()
def two_handlers_of_one_fault(world: World) -> None:
    """Two tasks read messages of one descriptor: one of them gets it."""
    area = world.map("anon")
    uffd = world.uffd(area)

    def serve(me: Caller) -> object:
        return me.copy(uffd, me.message(uffd).address, me.name.encode())

    world.task("reader", lambda me: me.read(area[0]))
    world.task("a handler", serve, may_wait=True)
    world.task("b handler", serve, may_wait=True)
    world.final("memory", lambda: world.peek(area[0]))


@small()
def poison_and_guard(world: World) -> None:
    """POISON and MADV_GUARD_INSTALL of one page, and a read."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("poisoner", lambda me: me.poison(uffd, area[0]))
    world.task("guard", lambda me: me.madvise(area[0], PAGE, mman.MADV_GUARD_INSTALL))
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)


@small()
def access_protected(world: World) -> None:
    """RWPROTECT of a page that is read and written."""
    area = world.map("anon")
    world.store(area[0], b"x")
    uffd = world.uffd(area, mode=Mode.RWP, features=Feature.RWP)

    def protect(me: Caller) -> object:
        first = me.rwprotect(uffd, area[0])
        return [first, me.rwprotect(uffd, area[0], protect=False)]

    world.task("protector", protect)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("writer", lambda me: me.write(area[0], b"w"), may_wait=True)


@small()
def one_page_of_memory(world: World) -> None:
    """Two COPYs where there is memory for one page, and one that frees it."""
    area = world.map("anon", 2)
    uffd = world.uffd(area)
    world.machine.memory.limit = 1
    world.task("handler a", lambda me: me.copy(uffd, area[0], b"a"))
    world.task("handler b", lambda me: me.copy(uffd, area[1], b"b"))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))


@small()
def fork_and_move(world: World) -> None:
    """MOVE of a page while the process forks: EBUSY once it is shared."""
    area = world.map("anon", 2)
    world.store(area[1], b"source")
    uffd = world.uffd(area)
    world.task("mover", lambda me: me.move(uffd, area[0], area[1]))
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[1])))
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)


@small()
def wake_inside_a_huge_page(world: World) -> None:
    """Two touches of a huge page, whose messages name the very address, and a wake-up of one."""
    area = world.map("hugetlb")
    uffd = world.uffd(area, features=Feature.EXACT_ADDRESS)
    inside = area[0] + 5 * PAGE
    world.task("reader", lambda me: me.read(inside), may_wait=True)
    world.task("waker", lambda me: me.wake(uffd, inside))
    world.task("other", lambda me: me.read(area[0]), may_wait=True)


@small()
def signal_while_reading(world: World) -> None:
    """A thread that waits for a message gets a signal while a touch wakes it."""
    area = world.map("anon")
    uffd = world.uffd(area)
    handler = world.task("handler", lambda me: me.message(uffd), may_wait=True)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("signaller", lambda _: handler.task.signal(10))


@small()
def exit_while_filling(world: World) -> None:
    """A process ends while a handler outside of it copies a page in, and its thread waits."""
    process = world.spawn()
    area = world.map("anon", process=process)
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), process=process)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
    world.task("killer", lambda me: me.exit(process))


@small()
def exit_with_threads_in_the_kernel(world: World) -> None:
    """A process ends while its threads fault, and another one punches a hole."""
    process = world.spawn()
    area = world.map("shmem", process=process)
    file = world.open(area.file)
    world.task("reader", lambda me: me.read(area[0]), process=process)
    world.task("writer", lambda me: me.write(area[0], b"1"), process=process)
    world.task("killer", lambda me: me.exit(process))
    world.task("puncher", lambda me: me.punch(file, 0))


SMALL: list[Scenario] = list(small.by_name.values())
