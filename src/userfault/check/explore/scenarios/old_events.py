"""What old bugs of events, of the handshake and of registration took."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.model.mm import mmap
from userfault.model.mm import vma as vmas
from userfault.model.mm.mmap import Behind
from userfault.model.uffd import ioctls
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi


@scenario(group="old-bugs")
def removal_of_a_replaced_mapping(world: World) -> None:
    """The mapping of MADV_DONTNEED is replaced while its event waits to be read."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))

    def replace(me: Caller) -> object:
        told = me.message(uffd)
        me.mmap_fixed(area[0], PAGE)
        return [told, me.write(area[0], b"new")]

    world.task("replacer", replace)


@scenario(group="old-bugs")
def two_removals_at_once(world: World) -> None:
    """Two threads drop two pages; a handler reads both events and fills."""
    area = world.map("anon", 2)
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    world.task("dropper a", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    world.task("dropper b", lambda me: me.madvise(area[1], PAGE, mman.MADV_DONTNEED))

    def serve(me: Caller) -> object:
        return [me.message(uffd), me.message(uffd), me.copy(uffd, area[0], b"x")]

    world.task("handler", serve)


@scenario(group="old-bugs")
def fork_whose_monitor_closes(world: World) -> None:
    """The only descriptor is closed while fork(2) waits for its event to be read."""
    area = world.map("anon")
    own = world.uffd(area, features=Feature.EVENT_FORK)
    monitor = world.spawn()
    uffd = Descriptor(monitor, monitor.install(own.process.file(own.fd)))
    own.process.close(own.fd)
    world.task("forker", lambda me: me.fork(lambda child: child.read(area[0])))
    world.task("closer", lambda me: me.close(uffd), process=monitor)


@scenario(group="old-bugs")
def two_handshakes(world: World) -> None:
    """Two threads ask for features of one descriptor."""
    context = Context(world.process.mm)
    world.process.install(UffdFile(0, context))

    def shake(features: int) -> object:
        def run(me: Caller) -> object:
            argument = ioctls.Buffer(abi.uffdio_api.struct.pack(abi.UFFD_API, features, 0))
            ioctls.ioctl(me.task, world.process, context, abi.UFFDIO_API, argument)
            return features

        return run

    world.task("a", shake(0))  # type: ignore[arg-type]
    world.task("b", shake(int(Feature.EVENT_REMOVE)))  # type: ignore[arg-type]


def _mapped(world: World, kind: str, flags: int, *, writable: bool = True) -> Area:
    """A mapping as `World.map` makes none."""
    process = world.process
    ops = world.machine.types[kind]
    file = world.file(kind) if ops.fault_folio is not None else None
    behind = Behind(ops, file, may_write=writable)
    prot = mman.PROT_READ | (mman.PROT_WRITE if writable else 0)
    start = mmap.mmap(process.threads[0], process.mm, 0, PAGE, prot, flags, behind)
    return Area(process, start, PAGE, PAGE, file)


@scenario(group="old-bugs")
def register_what_must_not_be_written(world: World) -> None:
    """REGISTER of a shared mapping of a file that was opened for reading, and COPY."""
    area = _mapped(world, "shmem", mman.MAP_SHARED, writable=False)
    uffd = world.uffd()

    def fill(me: Caller) -> object:
        answer = me.register(uffd, area[0], PAGE, Mode.MISSING)
        return [answer, me.copy(uffd, area[0], b"x")]

    world.task("handler", fill)


@scenario(group="old-bugs")
def register_droppable_memory(world: World) -> None:
    """REGISTER of memory whose pages may go at any time, and a touch."""
    area = _mapped(world, "droppable", mman.MAP_DROPPABLE)
    uffd = world.uffd()
    world.task("registerer", lambda me: me.register(uffd, area[0], PAGE, Mode.MISSING))
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)


@scenario(group="old-bugs")
def register_special_memory(world: World) -> None:
    """Write tracking of a shadow stack, which is written by calls and returns."""
    area = world.map("special")
    vma = world.process.mm.find(area[0])
    assert vma is not None
    vma.flags |= vmas.SPECIAL
    uffd = world.uffd(features=Feature.WP_ASYNC)
    world.task("registerer", lambda me: me.register(uffd, area[0], PAGE, Mode.WP))


@scenario(group="old-bugs")
def unregister_by_another_descriptor(world: World) -> None:
    """Another descriptor unregisters the range that a thread waits in."""
    area = world.map("anon")
    uffd, other = world.uffd(area), world.uffd()
    world.task("reader", lambda me: me.read(area[0]))
    world.task("stranger", lambda me: me.unregister(other, area[0], PAGE))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))
