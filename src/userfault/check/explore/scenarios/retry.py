"""COPY reads its source with no lock held: what may take the place of its destination meanwhile.

Where the mapping that was checked is not the one that is filled, Linux ends with EAGAIN since 7.1
(but for gaps); until then the bytes went into whatever was registered there (see docs/findings.md).
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import (
    ANON,
    HUGETLB,
    PRIVATE,
    SHMEM,
    WITH_TABLE,
    mapped,
    of_each,
)
from userfault.check.explore.scenarios.serving import copied
from userfault.kernel.modes import Mode

_ZEROS = b"\0\0\0"


def _replaced_by(world: World, before: str, after: str, *, shared: bool) -> None:
    """COPY into memory of one type, which another's takes the place of, registered alike."""
    area = mapped(world, before)
    source = world.map("anon")
    uffd = world.uffd(area)
    below = world.uffd(source)
    file = world.file("shmem") if after == SHMEM else None

    def replace(me: Caller) -> object:
        me.message(below)  # so COPY is reading its source
        me.mmap_fixed(area[0], area.length, file=file, shared=shared)
        me.register(uffd, area[0], area.length, int(Mode.MISSING))
        return me.copy(below, source[0], b"old")

    copier = world.task("handler", lambda me: copied(me, uffd, area[0], source[0], area.step))
    world.task("replacer", replace)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, copier, "EAGAIN")
    only(world, reader, _ZEROS, WAITS)  # zeros: what it read was not registered yet


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_anon_becomes_shmem(world: World) -> None:
    """While COPY reads its source, anonymous memory is replaced by shared: no byte gets there."""
    _replaced_by(world, ANON, SHMEM, shared=True)


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_anon_becomes_private(world: World) -> None:
    """While COPY reads its source, anonymous memory is replaced by a file's: none gets there."""
    _replaced_by(world, ANON, SHMEM, shared=False)


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_shmem_becomes_anon(world: World) -> None:
    """While COPY reads its source, shared memory is replaced by anonymous: no byte gets there."""
    _replaced_by(world, SHMEM, ANON, shared=False)


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_shmem_becomes_private(world: World) -> None:
    """While COPY reads its source, shared memory is replaced by a private file's."""
    _replaced_by(world, SHMEM, SHMEM, shared=False)


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_shmem_becomes_another_file(world: World) -> None:
    """While COPY reads its source, a file is replaced by another: no byte gets into that one."""
    _replaced_by(world, SHMEM, SHMEM, shared=True)


@scenario(group="retry", kernels=WITH_TABLE)
def copy_retry_private_becomes_shmem(world: World) -> None:
    """While COPY reads its source, a private mapping becomes shared: no byte gets into a file."""
    _replaced_by(world, PRIVATE, SHMEM, shared=True)


@of_each(ANON, SHMEM, PRIVATE, HUGETLB, group="retry")
def copy_retry_unmapped(world: World, kind: str) -> None:
    """While COPY reads its source, its destination is unmapped: ENOENT, and nothing is left."""
    area = mapped(world, kind)
    source = world.map(HUGETLB if kind == HUGETLB else ANON)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], source[0], area.step))
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))
    only(world, reader, _ZEROS, "SIGSEGV", WAITS)
    only(world, copier, area.step, "ENOENT")


@of_each(ANON, SHMEM, HUGETLB, group="retry")
def copy_retry_unregistered(world: World, kind: str) -> None:
    """While COPY reads its source, its range is unregistered: ENOENT, or it came before."""
    area = mapped(world, kind)
    source = world.map(HUGETLB if kind == HUGETLB else ANON)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], source[0], area.step))
    world.task("leaver", lambda me: me.unregister(uffd, area[0], area.length))
    only(world, reader, _ZEROS)
    only(world, copier, area.step, "ENOENT", "EEXIST")


@of_each(ANON, SHMEM, group="retry")
def copy_retry_moved(world: World, kind: str) -> None:
    """While COPY reads its source, its destination moves away: ENOENT, or its page moved too."""
    area = mapped(world, kind)
    source = world.map("anon")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], source[0], area.step))
    world.task("mover", lambda me: me.mremap(area[0], area.length, area.length, 3, 0x100000))
    only(world, reader, _ZEROS, "SIGSEGV", WAITS)
    only(world, copier, area.step, "ENOENT")


@of_each(SHMEM, group="retry")
def copy_retry_truncated(world: World, kind: str) -> None:
    """While COPY reads its source, the file is cut: an error, and nothing beyond the end."""
    area = mapped(world, kind)
    source = world.map("anon")
    uffd = world.uffd(area)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], source[0], area.step))
    world.task("truncater", lambda me: me.truncate(file, 0))
    only(world, reader, _ZEROS, "SIGBUS", WAITS)
    only(world, copier, area.step, "EFAULT", "ENOMEM")


@of_each(ANON, SHMEM, HUGETLB, group="retry")
def copy_retry_filled_meanwhile(world: World, kind: str) -> None:
    """While COPY reads its source, another fills the page: EEXIST, and one content is read."""
    area = mapped(world, kind)
    source = world.map(HUGETLB if kind == HUGETLB else ANON)
    uffd = world.uffd(area)

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    slow = world.task("handler a", lambda me: me.copy(uffd, area[0], source[0], area.step))
    fast = world.task("handler b", lambda me: me.copy(uffd, area[0], b"two", area.step))

    def holds() -> object:
        winner = {(area.step, "EEXIST"): _ZEROS, ("EEXIST", area.step): b"two"}
        return reader.value == winner.get((slow.value, fast.value))

    both(world, "the reader must see what the one successful copy brought", holds)


@of_each(ANON, SHMEM, group="retry", kernels=WITH_TABLE)
def copy_retry_with_a_new_mode(world: World, kind: str) -> None:
    """While COPY reads its source, its range is registered for WP too: EAGAIN, or it is done."""
    area = mapped(world, kind)
    source = world.map("anon")
    uffd = world.uffd(area)
    mode = int(Mode.MISSING | Mode.WP)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], source[0])
        return me.copy(uffd, area[0], source[0]) if done == "EAGAIN" else done

    reader = world.task("reader", lambda me: me.read(area[0], 3))
    copier = world.task("handler", serve)
    world.task("registerer", lambda me: me.register(uffd, area[0], area.length, mode))
    only(world, reader, _ZEROS)
    only(world, copier, area.step)
