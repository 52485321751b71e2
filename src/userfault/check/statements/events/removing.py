"""Events of madvise(2), munmap(2) and mmap(2): who waits until they were read."""

from __future__ import annotations

from errno import EINVAL

from userfault.check.words.area import Area
from userfault.check.words.flags import PUNCH_HOLE
from userfault.check.words.outcome import expect
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING
from userfault.kernel import calls
from userfault.kernel.calls import (
    HUGE,
    WAITS_EVENT,
    Madvise,
    Mmap,
    Mremap,
    Munmap,
)
from userfault.kernel.events import Remove, Unmap
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MAN = "userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"
_REMOVAL = Feature.EVENT_REMOVE | Feature.EVENT_UNMAP | Feature.EVENT_REMAP


# --- One mapping ---------------------------------------------------------------------------------


@statement(
    133,
    "With EVENT_REMOVE, MADV_DONTNEED, MADV_FREE and MADV_REMOVE sleep until the event was read,"
    " and the pages go after that; hole punching and ftruncate(2) raise nothing.",
    since="5.18",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def madvise_tells_before_pages_go(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, _REMOVAL, pages=2)
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
    u, area = t.registered(memory, MISSING, _REMOVAL, pages=4)
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
    213,
    "An mmap(2) with MAP_FIXED that the file's own mmap refuses (hugetlb: an offset within a page)"
    " has unmapped what was there, and sends its UNMAP event; what is refused before that (a type"
    " that does not exist) leaves it.",
    since="4.11",
    source="measured on 6.1, 6.12, 6.18, 7.2 and 7.3",
    memories=ALL,
)
def a_refused_mmap_has_unmapped(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, Feature.EVENT_UNMAP)
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


# --- Several contexts, several mappings ----------------------------------------------------------


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


# --- What is cut meanwhile -----------------------------------------------------------------------


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
    u, area = t.registered(memory, MISSING, Feature.EVENT_REMOVE, pages=2)
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
