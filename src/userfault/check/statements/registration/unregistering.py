"""UFFDIO_UNREGISTER: who is woken, what is lifted, what joins."""

from __future__ import annotations

from errno import EINVAL

from userfault.check.words.area import Area
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import guard
from userfault.check.words.statement import ALL, SHMEM, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MINOR, MISSING, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"


@statement(
    43,
    "UFFDIO_UNREGISTER of a range that is registered in part succeeds, and once more after that.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def unregistering_what_is_not_registered_succeeds(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.at(0), area.page, MISSING)
    for _ in range(2):
        u.unregister(area.address, area.length)
        expect(t.registration(area.address), "", "flags of the mapping")


@statement(
    44,
    "UFFDIO_UNREGISTER through another descriptor of the process fails with EINVAL since 6.17; up"
    " to 6.12 it succeeded.",
    since="6.1",
    source="measured on 6.1, 6.12, 6.17, 6.18, 7.2 and 7.3",
    memories=ALL,
    outcomes={"up to 6.12": "success", "since 6.17": "EINVAL"},
)
def another_descriptor_cannot_unregister(t: Thread, memory: Memory) -> None:
    owner, other = t.uffd(), t.uffd()
    area = t.map(memory)
    owner.register(area.address, area.length, MISSING)
    refused = t.since("6.17")
    other.unregister(area.address, area.length, fails=EINVAL if refused else 0)
    expect(t.registration(area.address), "um" if refused else "", "flags of the mapping")


@statement(
    45,
    "UFFDIO_UNREGISTER wakes those who wait for a missing page; they get the page that the kernel"
    " makes.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def unregistering_wakes_waiters_of_missing_pages(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    first = t.thread().blocks(Read(area.at(0), 8))
    u.fault(area.at(0), 0)
    second = t.thread().blocks(Write(area.at(1), b"w"))  # nobody reads its message
    u.unregister(area.address, area.length)
    first.read(bytes(8))
    second.ok()
    expect(u.counts(), (0, 0), "faults that fdinfo counts")
    u.silent("the range was unregistered")


@statement(
    46,
    "UFFDIO_UNREGISTER of a range without MISSING wakes nobody: who waits there sleeps until"
    " UFFDIO_WAKE.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def unregistering_wakes_no_other_waiters(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(area.address, b"old")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    _sleeps_through_unregister(t, u, area, Write(area.address, b"new"))
    expect(t.read(area.address, 3), b"new", "the page")
    if memory.minor_faults:
        area = t.map(memory)
        t.write(t.alias(area).address, b"cached")
        u.register(area.address, area.length, MINOR)
        _sleeps_through_unregister(t, u, area, Read(area.address, 6))


def _sleeps_through_unregister(t: Thread, u: Uffd, area: Area, touch: calls.Touch) -> None:
    waiter = t.thread().blocks(touch)
    u.message()
    u.unregister(area.address, area.length)
    waiter.still("UFFDIO_UNREGISTER")
    expect(u.counts(), (0, 1), "faults that fdinfo counts")
    u.wake(area.address, area.length)
    waiter.ok()


@statement(
    47,
    "UFFDIO_UNREGISTER lifts write protection: of pages that are there, and of empty entries.",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def unregistering_lifts_protection(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature(0) if memory.minor_faults else Feature.WP_UNPOPULATED)
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    u.register(area.address, area.length, WP)
    before = t.page(area.at(0))
    u.writeprotect(area.address, area.length)
    expect(t.protected(area.at(0)), True, "the page while it is protected")
    expect(t.protected(area.at(1)), True, "the empty entry while it is protected")
    u.unregister(area.address, area.length)
    expect(t.page(area.at(0)), before, "the page")
    expect(t.page(area.at(1)), "-----", "the empty entry")
    t.write(area.at(0), b"1")
    t.write(area.at(1), b"2")
    u.silent("the range was unregistered")


@statement(
    48,
    "UFFDIO_UNREGISTER of a part of a mapping leaves the rest of it registered.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_part_can_be_unregistered(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=3)
    u.unregister(area.at(1), area.page)
    expect(t.read(area.at(1), 8), bytes(8), "the page in the middle")
    u.silent("a touch of the page in the middle")
    for page in (0, 2):
        t.thread().blocks(Read(area.at(page), 1))
        u.fault(area.at(page), 0)


@statement(
    227,
    "Two mappings of a file that have guards become one when they are registered alike, also where"
    " they were not when the guards were made.",
    since="6.18",
    source="measured on 6.17 (where they stay two), 6.18, 7.2 and 7.3",
    memories=SHMEM,
)
def mappings_with_guards_join(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.at(1), PAGE, MISSING)
    guard(t, area.address, area.length)
    u.register(area.at(0), PAGE, MISSING)
    seen = t.vma(area.at(1))
    expect((seen.start, seen.end), (area.address, area.end), "the mapping of the second page")
