"""Events of mremap(2): of registered memory, and onto it."""

from __future__ import annotations

from userfault.check.words.area import Area
from userfault.check.words.flags import MOVE_TO
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import marking
from userfault.check.words.statement import ALL, ANON, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import (
    WAITS_EVENT,
    Mremap,
    Read,
)
from userfault.kernel.events import Remap, Unmap
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MAN = "userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"


@statement(
    135,
    "An mremap(2) that moves registered memory sleeps until a REMAP was read, and then, with"
    " EVENT_UNMAP, until an UNMAP of the old range was.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def moving_tells_the_new_address(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, Feature.EVENT_REMAP | Feature.EVENT_UNMAP, pages=2)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    new = t.program.free_place()
    mover = t.thread().blocks(_move(area, new), WAITS_EVENT)
    expect(t.ok(calls.Smaps(area.address, area.end)).vmas, (), "the old mapping")
    expect(u.read(1), [Remap(area.address, new, area.length)], "the first event")
    mover.still("the first of two events was read")
    expect(u.message(), Unmap(area.address, area.end), "the second event")
    mover.ok()
    expect(t.read(new), b"s", "the page at its new address")
    t.thread().blocks(Read(new + area.page, 1))
    u.fault(new + area.page, 0)


def _move(area: Area, new: int, flags: int = MOVE_TO) -> Mremap:
    return Mremap(area.address, area.length, area.length, flags, new)


@statement(
    139,
    "Memory that mremap(2) moves loses its registration and its protection without EVENT_REMAP,"
    " and keeps both with it.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def moving_needs_the_event_to_stay_registered(t: Thread, memory: Memory) -> None:
    for feature in (Feature(0), Feature.EVENT_REMAP):
        u, area = t.registered(memory, MISSING | WP, feature | marking(memory), pages=2)
        u.copy(area.at(0), t.source(b"s", area.page), area.page)
        u.writeprotect(area.address, area.length)
        new = t.program.free_place()
        if feature:
            mover = t.thread().blocks(_move(area, new), WAITS_EVENT)
            expect(u.message(), Remap(area.address, new, area.length), "the event")
            mover.ok()
        else:
            t.ok(_move(area, new))
        kept = bool(feature)
        expect(t.registration(new), "um uw" if kept else "", "the registration")
        found = [t.protected(new + page * area.page) for page in range(2)]
        expect(found, [kept, kept], "the pages are protected")
        expect(t.read(new), b"s", "the page")
        u.silent("the move")


@statement(
    140,
    "After MREMAP_DONTUNMAP without EVENT_REMAP the old range is registered, and the new one is"
    " not and has no protection; with EVENT_REMAP both are registered, and protection is kept.",
    since="5.7",
    source=_MEASURED,
    memories=ANON,
)
def dontunmap_leaves_the_old_range_registered(t: Thread, memory: Memory) -> None:
    for feature in (Feature(0), Feature.EVENT_REMAP):
        u, area = t.registered(memory, MISSING | WP, feature)
        u.copy(area.at(0), t.source(b"s", area.page), area.page)
        u.writeprotect(area.address, area.length)
        new = t.program.free_place()
        move = _move(area, new, MOVE_TO | mman.MREMAP_DONTUNMAP)
        if feature:
            mover = t.thread().blocks(move, WAITS_EVENT)
            expect(u.message(), Remap(area.address, new, area.length), "the event")
            mover.ok()
        else:
            t.ok(move)
        expect(t.registration(area.address), "um uw", "the registration of the old range")
        expect(t.registration(new), "um uw" if feature else "", "that of the new one")
        expect(t.page(new), "P--WX" if feature else "P---X", "the page")
        t.thread().blocks(Read(area.address, 1))
        u.fault(area.address, 0)


@statement(
    177,
    "An mremap(2) onto registered memory raises UNMAP of the target first, then REMAP, then UNMAP"
    " of the old range, each of which it waits for.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def moving_onto_registered_memory_unmaps_it(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMAP | Feature.EVENT_UNMAP)
    area, target = t.map(memory), t.map(memory, pages=2)
    source = t.source(b"s", area.page)
    for one in (area, target):
        u.register(one.address, one.length, MISSING)
    u.copy(area.address, source, area.page)
    mover = t.thread().blocks(_move(area, target.address), WAITS_EVENT)
    for event in (
        Unmap(target.at(0), target.at(1)),
        Remap(area.address, target.address, area.length),
        Unmap(area.address, area.end),
    ):
        mover.still("an event before it was read")
        expect(u.read(1), [event], "the event")
    mover.ok()
    expect(t.read(target.at(0)), b"s", "the page at its new address")
    t.thread().blocks(Read(target.at(1), 1))
    u.fault(target.at(1), 0)


@statement(
    211,
    "The REMAP event of an mremap(2) that moves a mapping and makes it shorter tells what has moved"
    " since 6.17, and the length before up to 6.12; its end is told by UNMAP.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
    outcomes={"up to 6.12": "the length before", "since 6.17": "the length that moved"},
)
def a_move_that_shrinks_tells_a_length(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, Feature.EVENT_REMAP | Feature.EVENT_UNMAP, pages=2)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    new = t.program.free_place()
    mover = t.thread().blocks(
        Mremap(area.address, area.length, area.page, MOVE_TO, new), WAITS_EVENT
    )
    told = area.page if t.since("6.17") else area.length
    expect(u.read(1), [Remap(area.address, new, told)], "the first event")
    ends = [Unmap(area.at(1), area.end), Unmap(area.at(0), area.at(1))]
    found = []
    for _ in ends:
        mover.still("all events were read")
        found += u.read(1)
    expect(sorted(found, key=str), sorted(ends, key=str), "the other events")
    mover.ok()
    expect(t.read(new), b"s", "the page at its new address")
    expect(t.ok(calls.Smaps(new + area.page, new + area.length)).vmas, (), "what is behind it")
