"""A residency budget, run: pages go out of memory beside whatever the client does to them.

One page may be in, or two: to touch one more takes the first one out.  What each task may see is
said by `allow`; that no byte is lost, in every schedule and with a worker that is killed at any of
its steps.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.serving import QUIET, Serving, Terms, serve
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.pager import allow, killer
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.uapi import mman

_GROUP = "budget"
_TERMS = Terms(evicts=True)
_SPILLS = Terms(evicts=True, spills=True)
_ZEROS = bytes(8)
_WRITTEN = b"written!"
_FARAWAY = 0x6000_0000_0000


def _source(page: int) -> bytes:
    return b"source %d" % page


def _mortal(terms: Terms) -> Terms:
    return msgspec.structs.replace(terms, mortal=True)


def _begin(world: World, terms: Terms = _TERMS, *, may: int = 1) -> tuple[Area, Serving]:
    """Five pages, of which so many `may` be in.  (Two threads that wait for one page each need two:
    with room for one, each could be taken out for the other for ever.)"""
    area = world.map("shmem", 5)
    policy = msgspec.structs.replace(QUIET, resident_bytes=may * PAGE)
    return area, serve(world, area, msgspec.structs.replace(terms, policy=policy))


def _reads(*pages: int) -> Callable[[Area], Callable[[Caller], object]]:
    """Read these pages, one after the other."""

    def of(area: Area) -> Callable[[Caller], object]:
        return lambda me: tuple(me.read(area[page], 8) for page in pages)

    return of


def _writes_and_reads(area: Area) -> Callable[[Caller], object]:
    """Read page 0 and write it, touch page 1 (for which another one goes), look at page 0."""

    def body(me: Caller) -> object:
        me.read(area[0], 8)
        me.write(area[0], _WRITTEN)
        return me.read(area[1], 8), me.read(area[0], 8)

    return body


@scenario(group=_GROUP)
def budget_write_against_evict(world: World) -> None:
    """A page is written while it is to go for another one: what was written stays."""
    area, _ = _begin(world, may=3)

    def write(me: Caller) -> object:
        me.read(area[0], 8)
        me.write(area[0], _WRITTEN)
        return me.read(area[1], 8), me.read(area[0], 8)

    allow(world, world.task("writer", write), (_source(1), _WRITTEN))
    allow(world, world.task("reader", _reads(2, 4)(area)), (_source(2), _source(4)))


@scenario(group=_GROUP)
def budget_written_stays(world: World) -> None:
    """A page that was written does not go for another one."""
    area, _ = _begin(world)
    allow(world, world.task("writer", _writes_and_reads(area)), (_source(1), _WRITTEN))


@scenario(group=_GROUP)
def budget_spill(world: World) -> None:
    """A page that was written goes to the spill file, and comes back as it was written."""
    area, _ = _begin(world, _SPILLS)
    allow(world, world.task("writer", _writes_and_reads(area)), (_source(1), _WRITTEN))


@scenario(group=_GROUP)
def budget_write_against_spill(world: World) -> None:
    """A page is written again while it goes to the spill file: the last bytes stay."""
    area, _ = _begin(world, _SPILLS, may=2)

    def write(me: Caller) -> object:
        me.write(area[0], b"written.")
        me.write(area[0], _WRITTEN)
        return me.read(area[0], 8)

    allow(world, world.task("writer", write), _WRITTEN)
    allow(world, world.task("reader", _reads(2, 4)(area)), (_source(2), _source(4)))


@scenario(group=_GROUP)
def budget_spill_full(world: World) -> None:
    """The spill file takes nothing: what was written stays in memory."""
    area, serving = _begin(world, _SPILLS)
    serving.pager.estate.spill.full = True
    allow(world, world.task("writer", _writes_and_reads(area)), (_source(1), _WRITTEN))


@scenario(group=_GROUP)
def budget_drop_against_evict(world: World) -> None:
    """A page is dropped while it is to go: after that it is never the source's."""
    area, _ = _begin(world, may=2)

    def drop(me: Caller) -> object:
        me.read(area[0], 8)
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return me.read(area[0], 8)

    allow(world, world.task("dropper", drop), _ZEROS, _source(0))
    allow(world, world.task("reader", _reads(2, 4)(area)), (_source(2), _source(4)))


@scenario(group=_GROUP)
def budget_move_against_evict(world: World) -> None:
    """A page that was written is moved while another one comes: its bytes move along."""
    area, _ = _begin(world, may=2)

    def move(me: Caller) -> object:
        me.write(area[0], _WRITTEN)
        me.mremap(
            area[0], PAGE, PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, _FARAWAY
        )  # fmt: skip
        return me.read(_FARAWAY, 8)

    allow(world, world.task("mover", move), _WRITTEN)
    allow(world, world.task("reader", _reads(2, 4)(area)), (_source(2), _source(4)))


@scenario(group=_GROUP)
def budget_left_place(world: World) -> None:
    """A page is moved, its old place kept: what is written there is not lost."""
    area, _ = _begin(world)

    def move(me: Caller) -> object:
        me.read(area[0], 8)
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_DONTUNMAP
        there = me.mremap(area[0], PAGE, PAGE, flags, 0)
        me.write(area[0], _WRITTEN)
        return me.read(area[1], 8), me.read(there, 8)

    allow(world, world.task("mover", move), (_source(1), _WRITTEN))


@scenario(group=_GROUP)
def budget_fork(world: World) -> None:
    """A child writes a page that its parent has read, and touches another: it stays for both."""
    area, _ = _begin(world)

    def child(me: Caller) -> object:
        me.write(area[0], _WRITTEN)
        return me.read(area[1], 8), me.read(area[0], 8)

    def parent(me: Caller) -> object:
        me.read(area[0], 8)
        me.fork(child)
        return me.read(area[0], 8)

    allow(world, world.task("parent", parent), _source(0), _WRITTEN)
    world.check(
        lambda: (
            None
            if world.peek(area[0], 8) in (None, _WRITTEN)
            else f"in the end it shows {world.peek(area[0], 8)!r}"
        )
    )


def _killed(name: str, terms: Terms, body: Callable[[Area], Callable[[Caller], object]],
            *allowed: object, sentence: str) -> None:  # fmt: skip
    def build(world: World) -> None:
        area, serving = _begin(world, _mortal(terms))
        allow(world, world.task("client", body(area)), *allowed)
        killer(world, serving)

    build.__doc__ = sentence
    scenario(name=name, group=_GROUP)(build)


_killed(
    "budget-killed-evicting",
    _TERMS,
    _reads(0, 1, 0),
    (_source(0), _source(1), _source(0)),
    sentence="The worker is killed at any step while a page goes and comes back.",
)
_killed(
    "budget-killed-writing",
    _TERMS,
    _writes_and_reads,
    (_source(1), _WRITTEN),
    sentence="The worker is killed at any step while a page is written: what was written stays.",
)
_killed(
    "budget-killed-spilling",
    _SPILLS,
    _writes_and_reads,
    (_source(1), _WRITTEN),
    sentence="The worker is killed at any step while a page is spilled: what was written stays.",
)
