"""The scenarios of the contract: each is about one rule, for any type that can be in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.contract.rules import RULES
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.kernel.modes import Mode
from userfault.model.files import filesystem
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import Config
from userfault.uapi import mman


class Case(msgspec.Struct, frozen=True):
    """A scenario, the rule that it is about, and what a type must have to be in it."""

    rule: int
    build: Callable[[World, MemoryOps], None]
    needs: Callable[[MemoryOps], bool]

    @property
    def name(self) -> str:
        return self.build.__name__.replace("_", "-")

    def scenario(self, ops: MemoryOps, kernel: str, design: str) -> Scenario:
        """Of this type, as its author wrote it."""
        sentence = " ".join((self.build.__doc__ or "").split())
        return Scenario(
            self.name,
            sentence,
            lambda world: self.build(world, world.machine.types[ops.name]),
            kernel,
            config=Config(design=design),
            types=(ops,),
        )


def _copies(ops: MemoryOps) -> bool:
    own = ops.uffd.alloc_folio is not None and ops.uffd.filemap_add is not None
    return own or "copy" in ops.runs


def _continues(ops: MemoryOps) -> bool:
    return ops.can_continue


def _allocates(ops: MemoryOps) -> bool:
    return ops.preallocate is not None


def _has_guests(ops: MemoryOps) -> bool:
    return ops.guest_folio is not None


def modes_of(ops: MemoryOps) -> Mode:
    """Those in which a type can be served: `ops` are what the design made of what it says."""
    missing = Mode.MISSING if _copies(ops) else Mode(0)
    return missing | (Mode.MINOR if _continues(ops) else Mode(0))


def _two(world: World, ops: MemoryOps, pages: int = 1) -> tuple[Area, Area]:
    """A mapping, to be registered, and another one of the same file."""
    area = world.map(ops.name, pages)
    return area, world.map(pages=pages, file=area.file)


def _accounts(world: World, area: Area) -> tuple[object, ...]:
    """Everything that a COPY that failed must leave as it was."""
    memory = world.machine.memory
    pools = [(pool.free, pool.reserved) for pool in memory.pools.values()]
    file = area.file
    cached = {index: folio.name for index, folio in file.cache.items()}
    return memory.used, memory.folios, pools, area.process.mm.cgroup.charged, file.blocks, cached


_SEEN = "a host sees a page that is the guest's alone"

# --- Scenarios -----------------------------------------------------------------------------------


def registering(world: World, ops: MemoryOps) -> None:
    """A mapping is registered twice while it is read."""
    area = world.map(ops.name)
    uffd = world.uffd(process=area.process)
    modes = int(modes_of(ops))
    for name in ("one", "other"):
        task = world.task(name, lambda me: me.register(uffd, area.start, area.length, modes))
        only(world, task, 0)


def continuing(world: World, ops: MemoryOps) -> None:
    """A page that another mapping has filled is mapped for a reader; a hole is not."""
    area, other = _two(world, ops, 2)
    world.store(other[0], b"there")
    uffd = world.uffd(area, mode=modes_of(ops))
    reader = world.task("reader", lambda me: me.read(area[0], 5))
    world.task("handler", lambda me: me.continue_(uffd, area[0], area.step))
    hole = world.task("hole", lambda me: me.continue_(uffd, area[1], area.step))
    only(world, reader, b"there")
    only(world, hole, "EFAULT")


def continuing_what_was_allocated(world: World, ops: MemoryOps) -> None:
    """A page that fallocate(2) made and nobody has written is mapped for a reader: zeros."""
    area = world.map(ops.name)
    keep = mman.FALLOC_FL_KEEP_SIZE
    filesystem.fallocate(world.machine.files, area.file, keep, 0, area.step)
    uffd = world.uffd(area, mode=modes_of(ops))
    reader = world.task("reader", lambda me: me.read(area[0], 5), may_wait=True)
    handler = world.task("handler", lambda me: me.continue_(uffd, area[0], area.step))
    only(world, reader, bytes(5), WAITS)
    only(world, handler, area.step, "EEXIST")


def continuing_what_becomes_the_guests(world: World, ops: MemoryOps) -> None:
    """A page is mapped with CONTINUE while its guest makes it its own: no host sees it then."""
    area, other = _two(world, ops)
    world.store(other[0], b"there")
    uffd = world.uffd(area, mode=modes_of(ops))
    vm = world.guest(area)
    handler = world.task("handler", lambda me: me.continue_(uffd, area[0], area.step))
    world.task("guest", lambda me: me.convert(vm, 0, private=True))
    only(world, handler, area.step, "EFAULT")
    both(world, _SEEN, lambda: world.peek(area[0]) is None and world.peek(other[0]) is None)


def copying(world: World, ops: MemoryOps) -> None:
    """A missing page is copied in for a reader, while another mapping writes it."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("writer", lambda me: me.write(other[0], b"w"))
    only(world, copier, area.step, "EEXIST")
    both(world, "the write was lost", lambda: world.peek(other[0]) == b"w")


def copying_what_becomes_the_guests(world: World, ops: MemoryOps) -> None:
    """A page is copied in while its guest makes it its own: no host sees it then."""
    area = world.map(ops.name)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    vm = world.guest(area)
    world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("guest", lambda me: me.convert(vm, 0, private=True))
    both(world, _SEEN, lambda: world.peek(area[0]) is None)


def copying_onto_a_guard(world: World, ops: MemoryOps) -> None:
    """A page is copied onto a guard beside a reader of the file: what was inserted goes again."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)

    def copy(me: Caller) -> object:
        me.madvise(area[0], area.step, mman.MADV_GUARD_INSTALL)
        return me.copy(uffd, area[0], b"new", area.step)

    copier = world.task("copier", copy)
    reader = world.task("reader", lambda me: me.read(other[0], 3))

    def holds() -> object:
        there = area.file.cache.get(0)
        left = there is not None and there.read(0, 3) == b"new"
        return copier.value == area.step or not (left or reader.value == b"new")

    both(world, RULES[5], holds)


def copying_onto_what_is_there(world: World, ops: MemoryOps) -> None:
    """A page is copied onto one that another mapping has filled: EEXIST, and all is as it was."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    world.store(other[0], b"there")
    before = _accounts(world, area)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    only(world, copier, "EEXIST")
    both(world, RULES[6], lambda: _accounts(world, area) == before)


def copying_twice(world: World, ops: MemoryOps) -> None:
    """A page is copied in twice at once."""
    area = world.map(ops.name)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    one = world.task("one", lambda me: me.copy(uffd, area[0], b"one", area.step))
    two = world.task("two", lambda me: me.copy(uffd, area[0], b"two", area.step))

    def holds() -> object:
        return {one.value, two.value} == {area.step, "EEXIST"}

    both(world, RULES[8], holds)


def copying_into_a_shorter_file(world: World, ops: MemoryOps) -> None:
    """A page is copied in and read while the file is made shorter than that."""
    area = world.map(ops.name, 2)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[1]), may_wait=True)
    world.task("copier", lambda me: me.copy(uffd, area[1], b"new", area.step))
    world.task("cutter", lambda me: me.truncate(file, area.step))
    only(world, reader, b"n", "SIGBUS", WAITS)


def touching_beyond_the_end(world: World, ops: MemoryOps) -> None:
    """A page behind the end of the file is touched, copied and continued."""
    if ops.can_resize:
        area = world.map(ops.name, 2)
    else:
        area = world.map(pages=2, file=world.file(ops.name, 1))
    uffd = world.uffd(area, mode=modes_of(ops))
    file = world.open(area.file)

    def touch(me: Caller) -> object:
        if ops.can_resize:
            me.truncate(file, area.step)
        answers = [me.copy(uffd, area[1], b"new", area.step)] if _copies(ops) else []
        if _continues(ops):
            answers.append(me.continue_(uffd, area[1], area.step))
        if not all(isinstance(answer, str) for answer in answers):
            return answers
        return me.read(area[1])

    only(world, world.task("reader", touch), "SIGBUS")


def copying_where_a_hole_is_made(world: World, ops: MemoryOps) -> None:
    """A page is copied in and read while a hole is made there."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    file = world.open(area.file)
    world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("puncher", lambda me: me.punch(file, 0, area.step))
    world.task("reader", lambda me: me.read(other[0]))


def reading_what_is_copied(world: World, ops: MemoryOps) -> None:
    """A page is copied in while another mapping reads it: all of the source, if it was copied."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=modes_of(ops) & Mode.MISSING)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    reader = world.task("reader", lambda me: me.read(other[0], 3))
    only(world, copier, area.step, "EEXIST")
    both(world, RULES[10], lambda: reader.value == b"new" or copier.value == "EEXIST")


CASES = (
    Case(1, registering, lambda _: True),
    Case(2, continuing, _continues),
    Case(2, continuing_what_was_allocated, lambda ops: _continues(ops) and _allocates(ops)),
    Case(2, continuing_what_becomes_the_guests, lambda ops: _continues(ops) and _has_guests(ops)),
    Case(4, copying, _copies),
    Case(4, copying_what_becomes_the_guests, lambda ops: _copies(ops) and _has_guests(ops)),
    Case(5, copying_onto_a_guard, _copies),
    Case(6, copying_onto_what_is_there, _copies),
    Case(8, copying_twice, _copies),
    Case(3, copying_into_a_shorter_file, lambda ops: _copies(ops) and ops.can_resize),
    Case(7, touching_beyond_the_end, lambda ops: ops.can_resize or not ops.mmap_grows),
    Case(9, copying_where_a_hole_is_made, _copies),
    Case(10, reading_what_is_copied, _copies),
)
