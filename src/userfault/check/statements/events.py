"""Events: fork, mremap, madvise and munmap of registered memory."""

from __future__ import annotations

from errno import EAGAIN, EINVAL, ENOMEM, ESRCH

from userfault.check.words.area import Area
from userfault.check.words.flags import MOVE_TO, PUNCH_HOLE, WP_WRITE
from userfault.check.words.outcome import Failed, expect
from userfault.check.words.scenes import marking
from userfault.check.words.statement import ALL, ANON, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, UNTOUCHED, WP, Message, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import (
    HUGE,
    WAITS_EVENT,
    Madvise,
    Mmap,
    Mremap,
    Munmap,
    Read,
    Write,
)
from userfault.kernel.events import Fork, Remap, Remove, Unmap
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MAN = "userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"

_REMOVAL = Feature.EVENT_REMOVE | Feature.EVENT_UNMAP | Feature.EVENT_REMAP


# --- Who waits until its event was read ----------------------------------------------------------


@statement(
    133,
    "With EVENT_REMOVE, MADV_DONTNEED, MADV_FREE and MADV_REMOVE sleep until the event was read,"
    " and the pages go after that; hole punching and ftruncate(2) raise nothing.",
    since="5.18",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def madvise_tells_before_pages_go(t: Thread, memory: Memory) -> None:
    u = t.uffd(_REMOVAL)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.page)
    for advice in _removals(memory):
        u.copy(area.at(1), source, area.page)
        before = t.page(area.at(1))
        drop = Madvise(area.at(1), area.page, advice)
        dropper = t.thread().blocks(drop, WAITS_EVENT)
        expect(t.page(area.at(1)), before, "the page while the event waits")
        expect(u.message(), Remove(area.at(1), area.end), "the event")
        dropper.ok()
        if advice != mman.MADV_FREE:
            expect(t.page(area.at(1)), "-----", "the page")
        _truncate(t, area)
    u.silent("hole punching and ftruncate(2)")


def _removals(memory: Memory) -> list[int]:
    """The kinds of advice that take pages out of this memory."""
    if not memory.minor_faults:
        return [mman.MADV_DONTNEED, mman.MADV_FREE]
    return [mman.MADV_DONTNEED, mman.MADV_REMOVE] if memory.shared else [mman.MADV_DONTNEED]


def _truncate(t: Thread, area: Area) -> None:
    """Empty the file, if there is one."""
    if area.fd >= 0:
        t.ok(calls.Fallocate(area.fd, PUNCH_HOLE, 0, area.length))
        t.ok(calls.Ftruncate(area.fd, 0))
        t.ok(calls.Ftruncate(area.fd, area.length))


@statement(
    134,
    "With EVENT_UNMAP, munmap(2), mmap(2) with MAP_FIXED and mremap(2) to a smaller length sleep"
    " until the event was read; the mapping is gone before that.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def unmapping_tells_after_the_fact(t: Thread, memory: Memory) -> None:
    u = t.uffd(_REMOVAL)
    area = t.map(memory, pages=4)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, t.source(b"s", area.length), area.length)
    unmapper = t.thread().blocks(Munmap(area.at(3), area.page), WAITS_EVENT)
    expect(t.ok(calls.Smaps(area.at(3), area.end)).vmas, (), "the mapping while the event waits")
    expect(u.message(), Unmap(area.at(3), area.end), "the event of munmap")
    unmapper.ok()
    shrink = Mremap(area.address, 3 * area.page, 2 * area.page)
    shrinker = t.thread().blocks(shrink, WAITS_EVENT)
    expect(t.ok(calls.Smaps(area.at(2), area.end)).vmas, (), "the mapping while the event waits")
    expect(u.message(), Unmap(area.at(2), area.at(3)), "the event of mremap")
    shrinker.ok()
    replacer = t.thread().blocks(_replace(area.at(1), area.page), WAITS_EVENT)
    expect(t.vma(area.at(1)).flags.count("um"), 0, "the registration of the new mapping")
    expect(u.message(), Unmap(area.at(1), area.at(2)), "the event of mmap")
    replacer.ok()
    expect(t.read(area.at(0)), b"s", "the page that is left")


def _replace(address: int, length: int) -> Mmap:
    """Anonymous memory over whatever is there."""
    return Mmap(address, length, flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED)


@statement(
    135,
    "An mremap(2) that moves registered memory sleeps until a REMAP was read, and then, with"
    " EVENT_UNMAP, until an UNMAP of the old range was.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def moving_tells_the_new_address(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMAP | Feature.EVENT_UNMAP)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
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
    136,
    "While an event waits to be read, COPY, ZEROPAGE, CONTINUE, POISON, MOVE and WRITEPROTECT fail"
    " with EAGAIN, anywhere in the context; REGISTER, WAKE and UNREGISTER work.",
    since="6.1",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
    outcomes={"6.1": "the result field is untouched", "since 6.12": "it is -EAGAIN"},
)
def fills_wait_for_the_event(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMOVE)
    area = t.map(memory, pages=3)
    elsewhere = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING | WP)
    u.register(elsewhere.address, elsewhere.length, MISSING | WP)
    source = t.source(b"s", area.page)
    reader = t.thread().blocks(Read(elsewhere.at(0), 1))
    u.fault(elsewhere.at(0), 0)
    drop = Madvise(area.at(1), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    field = _field_of_an_event(t)
    u.copy(area.at(0), source, area.page, fails=EAGAIN, field=field)
    u.copy(elsewhere.at(0), source, elsewhere.page, fails=EAGAIN, field=field)
    u.zeropage(area.at(0), area.page, fails=EAGAIN, field=field)
    u.continue_(area.at(0), area.page, fails=EAGAIN, field=field)
    if t.since("6.6"):
        u.poison(area.at(0), area.page, fails=EAGAIN, field=field)
    if t.since("6.8"):
        u.move(elsewhere.at(0), source, elsewhere.page, fails=EAGAIN, field=field)
    u.writeprotect(area.at(0), area.page, fails=EAGAIN)
    expect(t.page(area.at(0)), "-----", "the entry")
    u.unregister(area.at(2), area.page)
    u.register(area.at(2), area.page, MISSING)
    u.wake(elsewhere.at(0), elsewhere.page)
    reader.still("UFFDIO_WAKE")
    found = u.read()
    expect(found[1:], [Remove(area.at(1), area.at(2))], "the event after the fault")
    dropper.ok()
    u.copy(elsewhere.at(0), source, elsewhere.page)
    u.copy(area.at(0), source, area.page)
    reader.read(b"s")


def _field_of_an_event(t: Thread) -> int:
    """The result field of a fill that failed because an event waits."""
    return -EAGAIN if t.since("6.12") else UNTOUCHED


# --- Fork ----------------------------------------------------------------------------------------


@statement(
    137,
    "With EVENT_FORK, fork(2) sleeps until the event was read; it brings a descriptor that needs no"
    " handshake, the child's faults arrive there, and the child keeps protection.",
    since="6.4",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_fork_brings_a_descriptor(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_FORK | marking(memory))
    area = t.map(memory, pages=3)
    if area.page > calls.PAGE:
        t.reserve(area.page, 3)
    u.register(area.address, area.length, MISSING | WP)
    source = t.source(b"s", area.page)
    u.copy(area.at(0), source, area.page)
    u.writeprotect(area.at(0), 2 * area.page)
    child, w = _forked(t, u)
    found = [child.protected(area.at(page)) for page in range(3)]
    expect(found, [True, True, False], "the pages of the child are protected")
    expect(child.vma(area.address).flags.count("um"), 1, "the child is registered")
    t.fails(w.api(), EINVAL)
    reader = child.thread().blocks(Read(area.at(2), 1))
    u.silent("a fault of the child")
    w.fault(area.at(2), 0)
    w.copy(area.at(2), source, area.page)
    reader.read(b"s")
    child.thread().blocks(Write(area.at(0), b"w"))
    w.fault(area.at(0), WP_WRITE)


def _forked(t: Thread, u: Uffd) -> tuple[Thread, Uffd]:
    """A child of the process, and the descriptor for it that its event brought."""
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    event = u.message()
    descriptor = _fork(event)
    return t.child(parent.ok().value), Uffd(t, descriptor)


def _fork(event: Message) -> int:
    if not isinstance(event, Fork):
        raise Failed(f"promised a fork, saw {event}")
    return event.userfaultfd


@statement(
    138,
    "Without EVENT_FORK a child has neither registration nor protection; its parent keeps both.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def a_child_is_not_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd(marking(memory))
    area = t.map(memory, pages=3)
    if area.page > calls.PAGE:
        t.reserve(area.page, 3)
    u.register(area.address, area.length, MISSING | WP)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    u.writeprotect(area.at(0), 2 * area.page)
    child = t.fork()
    expect(child.registration(area.address), "", "the registration of the child")
    expect(t.registration(area.address), "um uw", "the registration of the parent")
    found = [child.protected(area.at(page)) for page in range(3)]
    expect(found, [False, False, False], "the pages of the child are protected")
    found = [t.protected(area.at(page)) for page in range(3)]
    expect(found, [True, True, False], "the pages of the parent are protected")
    child.write(area.at(0), b"child")
    expect(child.read(area.at(2), 8), bytes(8), "the page that was missing")
    u.silent("the touches of the child")
    t.thread().blocks(Write(area.at(0), b"w"))
    u.fault(area.at(0), WP_WRITE)


# --- Moving --------------------------------------------------------------------------------------


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
        u = t.uffd(feature | marking(memory))
        area = t.map(memory, pages=2)
        u.register(area.address, area.length, MISSING | WP)
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
        u = t.uffd(feature)
        area = t.map(memory)
        u.register(area.address, area.length, MISSING | WP)
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


# --- A process that is gone ----------------------------------------------------------------------


@statement(
    141,
    "On the descriptor of a process that has ended, fills fail with ESRCH, REGISTER and UNREGISTER"
    " with ENOMEM; WAKE works, and there is nothing to read.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def a_descriptor_outlives_its_process(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING | WP)
    t.thread().blocks(Read(area.address, 1))  # nobody reads its message
    child = t.fork()
    t.do(calls.Exit())
    w = u.by(child)
    source = child.source(b"s", area.page)
    w.copy(area.address, source, area.page, fails=ESRCH, field=UNTOUCHED)
    w.zeropage(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    w.continue_(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    if t.since("6.6"):
        w.poison(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    w.writeprotect(area.address, area.page, fails=ESRCH)
    w.register(area.address, area.page, MISSING, fails=ENOMEM)
    w.unregister(area.address, area.page, fails=ENOMEM)
    w.wake(area.address, area.page)
    w.silent("the process ended")
    expect(w.revents(), 0, "poll")


# --- Several contexts, several mappings ----------------------------------------------------------


@statement(
    173,
    "A fork(2) raises one event for each context with EVENT_FORK, one after the other in the order"
    " of their ranges; fills of all of them fail with EAGAIN from the start.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def each_context_hears_of_a_fork(t: Thread, memory: Memory) -> None:
    late, early = t.uffd(Feature.EVENT_FORK), t.uffd(Feature.EVENT_FORK)
    area = t.map(memory, pages=2)
    early.register(area.at(0), area.page, MISSING)
    late.register(area.at(1), area.page, MISSING)
    source = t.source(b"s", area.page)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    late.silent("the first event waits")
    late.copy(area.at(1), source, area.page, fails=EAGAIN, field=_field_of_an_event(t))
    served = [Uffd(t, _fork(early.message()))]
    parent.still("the first of two events was read")
    early.silent("the second event waits")
    served += [Uffd(t, _fork(late.message()))]
    child = t.child(parent.ok().value)
    for page, w in enumerate(served):
        child.thread().blocks(Read(area.at(page), 1))
        w.fault(area.at(page), 0)


@statement(
    174,
    "An munmap(2) over the ranges of several contexts raises one event for each, in the order of"
    " their ranges, and each tells the whole range that was unmapped.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def each_context_hears_of_an_unmap(t: Thread, memory: Memory) -> None:
    late, early = t.uffd(Feature.EVENT_UNMAP), t.uffd(Feature.EVENT_UNMAP)
    area = t.map(memory, pages=4)
    early.register(area.at(0), area.page, MISSING)
    late.register(area.at(2), area.page, MISSING)
    unmapper = t.thread().blocks(Munmap(area.address, area.length), WAITS_EVENT)
    late.silent("the first event waits")
    expect(early.message(), Unmap(area.address, area.end), "the first event")
    unmapper.still("the first of two events was read")
    expect(late.message(), Unmap(area.address, area.end), "the second event")
    unmapper.ok()


@statement(
    175,
    "An madvise(2) that removes pages of several registered mappings raises one event for each,"
    " with the part of the range that is in it, and none for the others.",
    since="5.18",
    source="measured on 6.18",
    memories=ALL,
)
def madvise_tells_of_each_mapping(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMOVE)
    area = t.map(memory, pages=4)
    for page in range(4):
        t.write(area.at(page), b"page")
    for page in (1, 3):
        u.register(area.at(page), area.page, MISSING)
    drop = Madvise(area.address, area.length, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    found = [("P" in t.page(area.at(page))) for page in range(4)]
    expect(found, [False, True, True, True], "the pages that are there at the first event")
    expect(u.message(), Remove(area.at(1), area.at(2)), "the first event")
    dropper.still("the first of two events was read")
    found = [("P" in t.page(area.at(page))) for page in range(4)]
    expect(found, [False, False, False, True], "the pages that are there at the second event")
    expect(u.message(), Remove(area.at(3), area.end), "the second event")
    dropper.ok()
    expect(t.page(area.at(3)), "-----", "the last page")


@statement(
    176,
    "Closing the last descriptor of a context lets those go on who wait for its events to be read.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def the_last_close_releases_senders(t: Thread, memory: Memory) -> None:
    u = t.uffd(_REMOVAL)
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    drop = Madvise(area.at(0), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    unmapper = t.thread().blocks(Munmap(area.at(2), area.page), WAITS_EVENT)
    u.close()
    dropper.ok()
    unmapper.ok()
    expect(t.page(area.at(0)), "-----", "the page that was dropped")
    expect(t.registration(area.at(0)), "", "the registration")


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
    u = t.uffd(Feature.EVENT_REMAP | Feature.EVENT_UNMAP)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
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


@statement(
    212,
    "A mapping that is cut while its REMOVE event waits to be read: since 6.17 the removal goes on"
    " behind the cut, with an event of its own; up to 6.12 what is behind it keeps its pages, which"
    " the event has named.",
    since="5.18",
    source=_MEASURED,
    memories=ALL,
    outcomes={"up to 6.12": "pages stay", "since 6.17": "another event, and they go"},
)
def a_removal_of_what_was_cut_meanwhile(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMOVE)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, t.source(b"s", area.length), area.length)
    drop = Madvise(area.address, area.length, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    t.ok(Madvise(area.address, area.page, mman.MADV_SEQUENTIAL))
    expect(u.read(1), [Remove(area.address, area.end)], "the event")
    if t.since("6.17"):
        dropper.still("the second of two events was read")
        expect(u.message(), Remove(area.at(1), area.end), "the second event")
    dropper.ok()
    there = [("P" in t.page(area.at(page))) for page in range(2)]
    expect(there, [False, not t.since("6.17")], "the pages that are there")


@statement(
    213,
    "An mmap(2) with MAP_FIXED that the file's own mmap refuses (hugetlb: an offset within a page)"
    " has unmapped what was there, and sends its UNMAP event; what is refused before that (a type"
    " that does not exist) leaves it.",
    since="4.11",
    source="measured on 6.1, 6.12, 6.18, 7.2 and 7.3",
    memories=ALL,
)
def a_refused_mmap_has_unmapped(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_UNMAP)
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    no_type = mman.MAP_ANONYMOUS | mman.MAP_FIXED
    t.fails(Mmap(area.address, HUGE, flags=no_type), EINVAL)
    expect(t.read(area.address), b"s", "the page after the first mmap")
    fd = t.ok(calls.MemfdCreate(mman.MFD_HUGETLB | mman.MFD_HUGE_2MB)).value
    shared = mman.MAP_SHARED | mman.MAP_FIXED
    asker = t.thread().blocks(
        Mmap(area.address, HUGE, flags=shared, fd=fd, offset=PAGE), WAITS_EVENT
    )
    expect(u.message(), Unmap(area.address, area.address + HUGE), "the event")
    expect(asker.finish().errno, EINVAL, "the second mmap")
    expect(t.ok(calls.Smaps(area.address, area.end)).vmas, (), "what is there after it")


@statement(
    178,
    "A fork(2) that waits for its event is not released by a close(2) in the process that forks:"
    " the child has the descriptor, too.",
    since="4.11",
    source=_MEASURED,
)
def closing_does_not_release_a_fork(t: Thread) -> None:
    u = t.uffd(Feature.EVENT_FORK)
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    u.close()
    parent.still("the close")
    expect(t.registration(area.address), "um", "the registration")


@statement(
    179,
    "The descriptor that a fork brought outlives the child: fills then fail with ESRCH.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def the_descriptor_of_a_fork_outlives_the_child(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_FORK)
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    child, w = _forked(t, u)
    child.do(calls.Exit())
    source = t.source(b"s", area.page)
    w.copy(area.address, source, area.page, fails=ESRCH, field=UNTOUCHED)
    w.register(area.address, area.page, MISSING, fails=ENOMEM)
    w.wake(area.address, area.page)
    u.copy(area.address, source, area.page)  # the parent's is not touched
    expect(t.read(area.address), b"s", "the page of the parent")
