"""The flaws of guest_memfd as posted, by their letters: what shows each of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import Found, search
from userfault.check.explore.strategies.reduced import Reduced
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode
from userfault.model.files import filesystem
from userfault.model.files.folio import SWAPPED
from userfault.model.files.inode import Inode
from userfault.model.invariants import Rule
from userfault.model.memtypes.guest_memfd import PREPARED
from userfault.model.profiles import NEXT, Config
from userfault.uapi import mman

KIND = "guest_memfd"


class Flaw(msgspec.Struct, frozen=True, eq=False):
    """`letter` as in docs/guest_memfd.md; `rules` False: what it does is seen by the user alone."""

    letter: str
    sentence: str
    build: Callable[[World], None]
    rules: bool


FLAWS: dict[str, Flaw] = {}


def flaw(letter: str, *, rules: bool = True) -> Callable[[Callable[[World], None]], object]:
    """A race that shows one."""

    def add(build: Callable[[World], None]) -> object:
        sentence = " ".join((build.__doc__ or "").split())
        FLAWS[build.__name__.replace("_", "-")] = Flaw(letter, sentence, build, rules)
        return build

    return add


def _allocated(world: World) -> Area:
    """A guest_memfd whose page fallocate(2) has made, and nobody has touched."""
    area = world.map(KIND)
    files, keep = world.machine.files, mman.FALLOC_FL_KEEP_SIZE
    filesystem.fallocate(files, area.file, keep, 0, PAGE)
    return area


@flaw("a")
def stale_memory(world: World) -> None:
    """CONTINUE of a page that fallocate(2) made, beside a reader."""
    area = _allocated(world)
    uffd = world.uffd(area, mode=Mode.MINOR)
    world.task("handler", lambda me: me.continue_(uffd, area[0]))
    reader = world.task("reader", lambda me: me.read(area[0], 5), may_wait=True)
    stale = "the reader sees what the memory held before"
    world.check(lambda: stale if reader.value not in (None, bytes(5)) else None)


@flaw("a, second half", rules=False)
def what_was_written_is_lost(world: World) -> None:
    """The host writes to a page that CONTINUE gave it, and the guest touches the page."""
    area = _allocated(world)
    uffd = world.uffd(area, mode=Mode.MINOR)
    vm = world.guest(area)

    def handle(me: Caller) -> object:
        done = me.continue_(uffd, area[0])
        return me.write(area[0], b"host") if done == PAGE else done

    def look(me: Caller) -> object:
        me.guest_read(vm, 0, 1)
        return me.read(area[0], 4)

    handler = world.task("handler", handle, may_wait=True)
    world.task("guest", look, may_wait=True)
    lost = "what the host wrote is gone"
    world.check(
        lambda: lost if handler.ended and world.peek(area[0], 4) not in (None, b"host") else None
    )


def _beyond(world: World, kind: str) -> None:
    file = world.file(kind, 1)
    area = world.map(kind, 2, file=file)
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[1]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[1], b"beyond"))


@flaw("b")
def a_message_beyond_the_end(world: World) -> None:
    """A touch beyond the end of a guest_memfd, and a handler that tries to serve it."""
    _beyond(world, KIND)


@flaw("b on shmem")
def a_message_beyond_the_end_of_shmem(world: World) -> None:
    """The same on a memfd: the decision is the core's."""
    _beyond(world, "shmem")


@flaw("c")
def read_from_swap_for_a_message(world: World) -> None:
    """A touch of a page of shmem in swap, and a handler that wakes it without an answer."""
    file = world.file("shmem")
    filesystem.write(world.machine.files, file, 0, b"page")
    world.swap_out(file)
    area = world.map("shmem", file=file)
    uffd = world.uffd(area, mode=Mode.MINOR)
    world.task("reader", lambda me: me.read(area[0], 4), may_wait=True)
    world.task("handler", lambda me: me.wake(uffd, area[0], PAGE))
    back = "the page was read from swap for a message that nobody has answered"
    world.check(lambda: None if file.cache[0].flags & SWAPPED else back)


def _seen_by_the_host(area: Area, file: Inode, world: World) -> str | None:
    mapped = world.peek(area[0]) is not None
    return (
        "the host maps a page that is the guest's alone"
        if mapped and file.private_indexes
        else None
    )


@flaw("d")
def converted_before_continue(world: World) -> None:
    """A guest makes a page its own while its host continues it."""
    area = world.map(KIND)
    world.store(area[0], b"shared")
    alias = world.map(KIND, file=area.file)
    uffd = world.uffd(alias, mode=Mode.MINOR)
    vm = world.guest(area)
    world.task("handler", lambda me: me.continue_(uffd, alias[0]))
    world.task("guest", lambda me: me.convert(vm, 0, private=True))
    world.check(lambda: _seen_by_the_host(alias, area.file, world))


@flaw("d")
def converted_before_copy(world: World) -> None:
    """A guest makes a page its own while its host copies it in."""
    area = world.map(KIND)
    uffd = world.uffd(area)
    vm = world.guest(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"copied"))
    world.task("guest", lambda me: me.convert(vm, 0, private=True))
    world.check(lambda: _seen_by_the_host(area, area.file, world))


@flaw("f")
def preparation_fails(world: World) -> None:
    """COPY into memory whose pages must be prepared, which fails, beside a reader and the guest."""
    area = world.map(KIND)
    area.file.traits |= PREPARED
    world.machine.memory.prepare_fails = True
    alias = world.map(KIND, file=area.file)
    uffd = world.uffd(area)
    vm = world.guest(area)
    copier = world.task("handler", lambda me: me.copy(uffd, area[0], b"copied"))
    world.task("reader", lambda me: me.read(alias[0]))
    world.task("guest", lambda me: me.guest_read(vm, 0))
    left = "a COPY that failed left its page in the file"
    world.check(lambda: left if copier.value != PAGE and area.file.cache else None)


@flaw("l")
def unlocked_twice(world: World) -> None:
    """The guest touches a page first that its host copies in."""
    area = world.map(KIND)
    uffd = world.uffd(area)
    vm = world.guest(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"copied"))
    world.task("guest", lambda me: me.guest_read(vm, 0))
    memory = world.machine.memory
    world.check(lambda: "a folio was unlocked twice" if memory.bad_unlocks else None)


@flaw("e")
def copy_and_hole(world: World) -> None:
    """COPY against a hole and the guest (the invalidate lock): no flaw in either."""
    area = world.map(KIND)
    uffd = world.uffd(area)
    vm = world.guest(area)
    file = world.open(area.file)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"copied"))
    world.task("puncher", lambda me: me.punch(file, 0))
    world.task("guest", lambda me: me.guest_write(vm, 0, b"g"))


@flaw("e")
def continue_and_hole(world: World) -> None:
    """CONTINUE against a hole and the guest: no flaw in either."""
    area = world.map(KIND)
    world.store(area[0], b"old")
    alias = world.map(KIND, file=area.file)
    uffd = world.uffd(alias, mode=Mode.MINOR)
    vm = world.guest(area)
    file = world.open(area.file)
    world.task("handler", lambda me: me.continue_(uffd, alias[0]))
    world.task("puncher", lambda me: me.punch(file, 0))
    world.task("guest", lambda me: me.guest_write(vm, 0, b"g"))


def scenario(name: str, design: str) -> Scenario:
    """The race under a design."""
    found = FLAWS[name]
    return Scenario(name, found.sentence, found.build, config=Config(design=design))


def explored(name: str, design: str) -> Found:
    """All of it under a design, or until something breaks."""
    runner = Runner(scenario(name, design), NEXT, invariants=rules(name))
    return search(runner, Reduced())


def rules(name: str) -> list[Rule]:
    """What is looked at after every step.

    In the races of e the guest may come first, and flaw l is met on the way: it is left aside.
    """
    found = FLAWS[name]
    if not found.rules:
        return []
    return [rule for rule in INVARIANTS if found.letter != "e" or rule.name != "unlocked-once"]
