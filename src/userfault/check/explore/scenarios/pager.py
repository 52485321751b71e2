"""The interleavings of docs/pager.md, run: the real pager, and a client that does the worst thing.

Each is small: one page, a thread that touches it, and a change in between.  What the thread may see
is said by `allows`; that it does not wait for ever is the explorer's own.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.serving import Serving, Terms, serve
from userfault.check.explore.building.world import Area, World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.model.kernel import Calm, Reading
from userfault.uapi import mman

_GROUP = "pager"
_SOURCE = b"source 0"
_ZEROS = bytes(8)
_GONE = "SIGSEGV"
_MORTAL = Terms(mortal=True)
_EAGER = Terms(policy=Policy(window_bytes=1, chunk_bytes=1, fault_deadline_s=None))
_FARAWAY = 0x6000_0000_0000


def _toucher(world: World, area: Area) -> Caller:
    return world.task("toucher", lambda me: me.read(area[0], 8))


def allow(world: World, task: Caller, *allowed: object) -> None:
    """What a task may have got."""

    def complaint() -> str | None:
        if task.value in allowed:
            return None
        return f"{task.name} got {task.value!r}, not {' or '.join(map(repr, allowed))}"

    world.check(complaint)


def shows(world: World, address: int, *allowed: bytes) -> None:
    """What is there in the end, if anything is."""

    def complaint() -> str | None:
        shown = world.peek(address, 8)
        return None if shown is None or shown in allowed else f"in the end it shows {shown!r}"

    world.check(complaint)


def killer(world: World, serving: Serving) -> None:
    """The worker is killed, at any of its steps; another one takes over."""
    process = serving.pager.kernel.process
    world.task("killer", lambda _: serving.kill(), process=process)


@scenario(group=_GROUP)
def pager_fault_against_drop(world: World) -> None:
    """A thread touches a page while another one drops it: after that it is never the source's."""
    area = world.map("anon")
    serve(world, area)
    allow(world, _toucher(world, area), _SOURCE, _ZEROS)
    dropper = world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    allow(world, dropper, 0)
    shows(world, area[0], _ZEROS)


@scenario(group=_GROUP)
def pager_drop_and_touch_again(world: World) -> None:
    """Who has dropped a page and touches it reads zeros."""
    area = world.map("anon")
    serve(world, area)

    def drop(me: Caller) -> object:
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return me.read(area[0], 8)

    allow(world, world.task("dropper", drop), _ZEROS)


@scenario(group=_GROUP)
def pager_fault_against_remove(world: World) -> None:
    """The same with MADV_REMOVE of shared memory: the page goes out of the file."""
    area = world.map("shmem")
    serve(world, area)
    allow(world, _toucher(world, area), _SOURCE, _ZEROS)
    remover = world.task("remover", lambda me: me.madvise(area[0], PAGE, mman.MADV_REMOVE))
    allow(world, remover, 0)
    shows(world, area[0], _ZEROS)


@scenario(group=_GROUP)
def pager_fault_against_alias(world: World) -> None:
    """A page is written through its file while it is filled: what was written stays."""
    area = world.map("shmem")
    serve(world, area)
    file = world.open(area.file)
    allow(world, _toucher(world, area), _SOURCE, _ZEROS, b"written!")
    writer = world.task("writer", lambda me: me.pwrite(file, 0, b"written!"))
    allow(world, writer, 8)
    shows(world, area[0], b"written!")


@scenario(group=_GROUP)
def pager_fault_against_munmap(world: World) -> None:
    """A page is unmapped under a thread that waits for it: nobody is left asleep."""
    area = world.map("anon")
    serve(world, area)
    allow(world, _toucher(world, area), _SOURCE, _GONE)
    allow(world, world.task("unmapper", lambda me: me.munmap(area[0], PAGE)), 0)


@scenario(group=_GROUP)
def pager_fault_against_mremap(world: World) -> None:
    """A page is moved under a thread that waits for it: nobody is left asleep at the old place."""
    area = world.map("anon")
    serve(world, area)
    allow(world, _toucher(world, area), _SOURCE, _GONE)
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    mover = world.task("mover", lambda me: me.mremap(area[0], PAGE, PAGE, flags, _FARAWAY))
    allow(world, mover, _FARAWAY)


@scenario(group=_GROUP)
def pager_fork_and_touch(world: World) -> None:
    """A child touches a page that its parent never had."""
    area = world.map("anon")
    serve(world, area)
    world.task("parent", lambda me: me.fork(lambda child: child.read(area[0], 8)))

    def complaint() -> str | None:
        for caller in world.callers.values():
            if caller.name == "parent's child" and caller.value != _SOURCE:
                return f"the child read {caller.value!r}"
        return None

    world.check(complaint)


class _Slow(Calm):
    """Every page is read by a thread, and that takes a while."""

    def at_hand(self, page: int, count: int) -> bool:
        del page, count
        return False

    def reading(self, page: int, count: int) -> Reading:
        del page, count
        return Reading(0.1)


@scenario(group=_GROUP)
def pager_child_ends_with_the_last_view(world: World) -> None:
    """Everything is asked for, and a child that alone shows a page of shared memory ends while the
    page is read for it: nobody can come who shows the page, and the pager lets go of the memory."""

    def ends(me: Caller, serving: Serving) -> None:
        serving.clock.sleep(me.task, 0.05, lambda: "the read has begun")
        serving.exit(me)

    _shown_by_a_child(world, ends, "removed")


@scenario(group=_GROUP)
def pager_background_against_mremap_of_a_child(world: World) -> None:
    """Everything is asked for, and the child that alone shows a page of shared memory moves it just
    when it is filled: it is filled at the new place, though the child asks for nothing."""
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED

    def moves(me: Caller, serving: Serving) -> None:
        serving.clock.sleep(me.task, 0.1, lambda: "the read is done")
        me.mremap(serving.area[0], PAGE, PAGE, flags, _FARAWAY)

    _shown_by_a_child(world, moves, "present")


def _shown_by_a_child(world: World, does: Callable[[Caller, Serving], None], ends_as: str) -> None:
    """What a child does that alone shows a page, which is read for it in the background."""
    area = world.map("shmem")
    serving = serve(world, area, Terms(readers=1, timed=True), _Slow())

    def parent(me: Caller) -> None:
        me.fork(lambda child: does(child, serving))
        me.munmap(area[0], PAGE)
        serving.complete()

    world.task("parent", parent)

    def complaint() -> str | None:
        states = serving.states()
        return None if states == [ends_as] else f"it is done, and the page is {states[0]}"

    world.check(complaint)


@scenario(group=_GROUP)
def pager_background_against_drop(world: World) -> None:
    """A page that is filled unasked is dropped meanwhile, and the pager lets go of the memory."""
    area = world.map("anon")
    serve(world, area, _EAGER)

    def drop(me: Caller) -> object:
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return me.read(area[0], 8)

    allow(world, world.task("dropper", drop), _ZEROS)


@scenario(group=_GROUP)
def pager_fault_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a thread waits, and another takes over."""
    area = world.map("anon")
    killer(world, serve(world, area, _MORTAL))
    allow(world, _toucher(world, area), _SOURCE)


@scenario(group=_GROUP)
def pager_write_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a thread writes to a page: that stays."""
    area = world.map("anon")
    killer(world, serve(world, area, msgspec.structs.replace(_EAGER, mortal=True)))

    def write(me: Caller) -> object:
        me.write(area[0], b"written!")
        return me.read(area[0], 8)

    allow(world, world.task("writer", write), b"written!")


@scenario(group=_GROUP)
def pager_drop_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a page is dropped and touched again."""
    area = world.map("anon")
    killer(world, serve(world, area, _MORTAL))

    def drop(me: Caller) -> object:
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return me.read(area[0], 8)

    allow(world, world.task("dropper", drop), _ZEROS)


@scenario(group=_GROUP)
def pager_request_against_kill(world: World) -> None:
    """A client gives up and ends, a child of it goes on, and the worker is killed meanwhile."""
    area = world.map("anon")
    serving = serve(world, area, _MORTAL)
    killer(world, serving)

    def give_up(me: Caller) -> None:
        me.fork(lambda child: child.task.tid)
        serving.give_up()
        serving.exit(me)

    world.task("parent", give_up)


@scenario(group=_GROUP)
def pager_mremap_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a page moves: the move is not lost."""
    area = world.map("anon")
    killer(world, serve(world, area, _MORTAL))

    def move(me: Caller) -> object:
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        return me.read(me.mremap(area[0], PAGE, PAGE, flags, _FARAWAY), 8)

    allow(world, world.task("mover", move), _SOURCE)


@scenario(group=_GROUP)
def pager_fork_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a client forks: the child is served."""
    area = world.map("anon")
    killer(world, serve(world, area, _MORTAL))
    world.task("parent", lambda me: me.fork(lambda child: child.read(area[0], 8)))

    def complaint() -> str | None:
        for caller in world.callers.values():
            if caller.name == "parent's child" and caller.value != _SOURCE:
                return f"the child read {caller.value!r}"
        return None

    world.check(complaint)
