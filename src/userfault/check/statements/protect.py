"""UFFDIO_WRITEPROTECT, UFFDIO_RWPROTECT and UFFDIO_SET_MODE."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT

from userfault.check.words.area import Area
from userfault.check.words.flags import PUNCH_HOLE, READ_WRITE, UNDEFINED_MODE, WP_WRITE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import marking
from userfault.check.words.statement import ALL, ANON, FILES, HUGETLB, SHARED, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, RWP, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Madvise, Mprotect, Munmap, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"

_PROTECT = abi.UFFDIO_WRITEPROTECT_MODE_WP
_DONTWAKE = abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE

# A fault message: a write to a page that is write-protected; a touch of one that is RW-protected.
_RWP_READ = abi.UFFD_PAGEFAULT_FLAG_RWP
_RWP_WRITE = abi.UFFD_PAGEFAULT_FLAG_RWP | abi.UFFD_PAGEFAULT_FLAG_WRITE


# --- Arguments -----------------------------------------------------------------------------------


@statement(
    102,
    "UFFDIO_WRITEPROTECT of memory that is not registered for WP, or of no mapping, fails with"
    " ENOENT.",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def protecting_needs_the_wp_mode(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(area.address, b"page")
    u.writeprotect(area.address, area.length, fails=ENOENT)
    u.register(area.address, area.length, MISSING)
    u.writeprotect(area.address, area.length, fails=ENOENT)
    u.writeprotect(area.address, area.length, 0, fails=ENOENT)
    u.writeprotect(t.program.free_place(), area.length, fails=ENOENT)
    expect(t.protected(area.address), False, "the page is protected")


@statement(
    103,
    "DONTWAKE with WP, and an undefined mode, fail with EINVAL; un-protecting with DONTWAKE leaves"
    " the writer asleep until UFFDIO_WAKE.",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def dontwake_is_for_unprotecting(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    u.writeprotect(area.address, area.length, _PROTECT | _DONTWAKE, fails=EINVAL)
    u.writeprotect(area.address, area.length, _PROTECT | UNDEFINED_MODE, fails=EINVAL)
    writer = t.thread().blocks(Write(area.address, b"new"))
    u.fault(area.address, WP_WRITE)
    u.writeprotect(area.address, area.length, _DONTWAKE)
    writer.still("un-protecting with DONTWAKE")
    expect(t.protected(area.address), False, "the page is protected")
    u.wake(area.address, area.length)
    writer.ok()
    u.silent("the write")


@statement(
    104,
    "UFFDIO_WRITEPROTECT over a hole protects what is mapped on both sides of it; 6.1 takes one"
    " mapping at a time.",
    since="6.1",
    source="measured on 6.1, and on 6.12 to 7.3",
    memories=ALL,
    outcomes={"6.1": "ENOENT, and nothing changes", "since 6.12": "success"},
)
def protecting_skips_holes(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    for page in (0, 2):
        t.write(area.at(page), b"page")
    u.register(area.address, area.length, WP)
    t.ok(Munmap(area.at(1), area.page))
    many = t.since("6.12")
    u.writeprotect(area.address, area.length, fails=0 if many else ENOENT)
    for page in (0, 2):
        expect(t.protected(area.at(page)), many, f"page {page} is protected")


@statement(
    105,
    "Where the first mapping of the range is registered for WP and the second is not,"
    " UFFDIO_WRITEPROTECT fails with ENOENT, and the first is protected (6.1: is not).",
    since="6.1",
    source="measured on 6.1, and on 6.12 to 7.3",
    memories=ALL,
    outcomes={"6.1": "ENOENT, and nothing changes", "since 6.12": "the first is protected"},
)
def protecting_stops_at_a_mapping_without_wp(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    for page in range(3):
        t.write(area.at(page), b"page")
    u.register(area.at(0), area.page, WP)
    u.register(area.at(2), area.page, WP)
    u.writeprotect(area.address, area.length, fails=ENOENT)
    found = [t.protected(area.at(page)) for page in range(3)]
    expect(found, [t.since("6.12"), False, False], "the pages are protected")


# --- What protecting does to an entry ------------------------------------------------------------


@statement(
    106,
    "Protecting an empty entry of anonymous memory does nothing, and with WP_UNPOPULATED it leaves"
    " a marker there, which a write meets.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ANON,
)
def anonymous_memory_gets_markers_if_asked(t: Thread, memory: Memory) -> None:
    plain, marking = t.uffd(), t.uffd(Feature.WP_UNPOPULATED)
    area = t.map(memory)
    plain.register(area.address, area.length, WP)
    plain.writeprotect(area.address, area.length)
    expect(t.page(area.address), "-----", "the entry without WP_UNPOPULATED")
    t.write(area.address, b"w")
    plain.silent("a write to an empty entry without WP_UNPOPULATED")
    area = t.map(memory)
    marking.register(area.address, area.length, WP)
    marking.writeprotect(area.address, area.length)
    expect(t.page(area.address), "-S-W-", "the entry with WP_UNPOPULATED")
    t.thread().blocks(Write(area.address, b"w"))
    marking.fault(area.address, WP_WRITE)


@statement(
    107,
    "Protecting an empty entry of a file mapping leaves a marker there, and a write to it is"
    " reported as a write to a protected page, once.",
    since="5.19",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=FILES,
)
def file_mappings_get_markers(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, WP)
    u.writeprotect(area.address, area.length)
    expect(t.protected(area.address), True, "the empty entry is protected")
    expect("P" in t.page(area.address), False, "the empty entry is present")
    writer = t.thread().blocks(Write(area.address, b"new"))
    u.fault(area.address, WP_WRITE)
    u.writeprotect(area.address, area.length, 0)
    writer.ok()
    u.silent("the write")
    expect(t.read(area.address, 3), b"new", "the page")


@statement(
    108,
    "Reading through a marker maps a page without a message, and the page is protected.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def a_marker_becomes_a_protected_page(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, WP, marking(memory))
    u.writeprotect(area.address, area.length)
    expect(t.read(area.address, 8), bytes(8), "the page")
    u.silent("the read")
    entry = t.page(area.address)
    expect(("P" in entry, "W" in entry), (True, True), f"present, protected in {entry}")
    t.thread().blocks(Write(area.address, b"w"))
    u.fault(area.address, WP_WRITE)


# --- How long protection lasts -------------------------------------------------------------------


@statement(
    109,
    "MADV_DONTNEED drops the protection of anonymous memory, of pages and of empty entries; in a"
    " file mapping it leaves a marker, as do MADV_REMOVE, hole punching and, except for hugetlb,"
    " truncation.",
    since="6.4",
    source=f"{_MEASURED}; truncation of hugetlb files: measured on 6.18",
    memories=ALL,
)
def protection_of_file_mappings_outlives_the_page(t: Thread, memory: Memory) -> None:
    u = t.uffd(marking(memory))
    area = t.map(memory, pages=2)
    t.write(area.address, b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    for drop in _drops(area, memory):
        t.ok(drop)
        kept = memory.minor_faults
        if isinstance(drop, calls.Ftruncate):
            t.ok(calls.Ftruncate(area.fd, area.length))
            kept = area.page == PAGE
        for page in range(2):
            entry = t.page(area.at(page))
            expect("W" in entry, kept, f"page {page} ({entry}) is protected")
            expect("P" in entry, False, f"page {page} ({entry}) is present")
        t.read(area.address)  # the marker becomes a page, for the next one to drop
    u.silent("all of this")


def _drops(area: Area, memory: Memory) -> list[calls.Call]:
    """Ways to take the pages out of a mapping, those of the file last."""
    found: list[calls.Call] = [Madvise(area.address, area.length, mman.MADV_DONTNEED)]
    if memory.shared:
        found += [
            Madvise(area.address, area.length, mman.MADV_REMOVE),
            calls.Fallocate(area.fd, PUNCH_HOLE, 0, area.length),
        ]
    if memory.minor_faults:
        found += [calls.Ftruncate(area.fd, 0)]
    return found


@statement(
    110,
    "mprotect(2) keeps the protection: a write after PROT_WRITE is back is reported.",
    since="5.19",
    source=_MEASURED,
    memories=ALL,
)
def mprotect_keeps_protection(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    for prot in (mman.PROT_READ, mman.PROT_NONE, READ_WRITE):
        t.ok(Mprotect(area.address, area.length, prot))
        expect(t.protected(area.address), True, f"the page is protected under {prot}")
    t.thread().blocks(Write(area.address, b"w"))
    u.fault(area.address, WP_WRITE)


@statement(
    111,
    "A range of UFFDIO_WRITEPROTECT that begins or ends inside of a huge page fails with EINVAL.",
    since="5.19",
    source=_MEASURED,
    memories=HUGETLB,
)
def huge_pages_are_protected_whole(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    t.write(area.address, b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, PAGE, fails=EINVAL)
    u.writeprotect(area.address + PAGE, area.page, fails=EINVAL)
    u.writeprotect(area.address, area.page + PAGE, fails=EINVAL)
    expect(t.protected(area.address), False, "the page is protected")
    u.writeprotect(area.address, area.page)
    expect(t.protected(area.address), True, "the page is protected")


@statement(
    112,
    "Closing the descriptor lifts write protection: of pages that are there, and of empty entries.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def closing_lifts_protection(t: Thread, memory: Memory) -> None:
    u = t.uffd(marking(memory))
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    before = t.page(area.at(0))
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    found = [t.protected(area.at(page)) for page in range(2)]
    expect(found, [True, True], "the page and the empty entry are protected")
    u.close()
    expect(t.page(area.at(0)), before, "the page")
    expect(t.page(area.at(1)), "-----", "the empty entry")
    expect(t.vma(area.address).flags.count("uw"), 0, "the registration")
    t.write(area.at(0), b"1")
    t.write(area.at(1), b"2")


@statement(
    172,
    "Protection is of one mapping: a write through another mapping of the file, or by a child to"
    " memory that they share, is not reported and leaves the page protected.",
    since="5.19",
    source=f"{_MEASURED}; a child: measured on 6.18",
    memories=SHARED,
)
def protection_is_of_one_mapping(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    alias = t.alias(area)
    child = t.fork()
    t.write(alias.address, b"alias")
    expect(t.read(area.address, 5), b"alias", "the page")
    child.write(area.address, b"child")
    expect(t.read(area.address, 5), b"child", "the page")
    u.silent("writes through other mappings")
    expect(t.protected(area.address), True, "the page is protected")
    writer = t.thread().blocks(Write(area.address, b"here!"))
    u.fault(area.address, WP_WRITE)
    u.writeprotect(area.address, area.length, 0)
    writer.ok()
    expect(child.read(area.address, 5), b"here!", "the page of the child")


# --- RWP (7.3) -----------------------------------------------------------------------------------


@statement(
    113,
    "UFFDIO_RWPROTECT looks at the whole range before it changes anything: one mapping without RWP"
    " makes it fail with ENOENT, and no page is protected.",
    since="7.3",
    source=f"{_GUIDE}; measured on 7.3",
    memories=ALL,
)
def rw_protection_is_all_or_nothing(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    area = t.map(memory, pages=2)
    for page in range(2):
        t.write(area.at(page), b"page")
    u.register(area.at(0), area.page, RWP)
    u.rwprotect(area.address, area.length, fails=ENOENT)
    u.rwprotect(t.program.free_place(), area.length, fails=ENOENT)
    expect(t.protected(area.at(0)), False, "the first page is protected")
    both = abi.UFFDIO_RWPROTECT_MODE_RWP | abi.UFFDIO_RWPROTECT_MODE_DONTWAKE
    u.rwprotect(area.at(0), area.page, both, fails=EINVAL)
    u.rwprotect(area.at(0), area.page, UNDEFINED_MODE, fails=EINVAL)
    u.rwprotect(area.at(0), area.page)
    expect(t.protected(area.at(0)), True, "the first page is protected")


@statement(
    114,
    "A read of an RW-protected page is reported with RWP, a write with RWP and WRITE; COPY is no"
    " answer (EEXIST), UFFDIO_RWPROTECT without a mode is.",
    since="7.3",
    source=f"{_GUIDE}; measured on 7.3",
    memories=ALL,
)
def rw_protected_pages_report_every_touch(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    area = t.map(memory)
    t.write(area.address, b"old")
    u.register(area.address, area.length, RWP)
    source = t.source(b"s", area.page)
    for touch, flags in (
        (Read(area.address, 3), _RWP_READ),
        (Write(area.address, b"new"), _RWP_WRITE),
    ):
        u.rwprotect(area.address, area.length)
        waiter = t.thread().blocks(touch)
        u.fault(area.address, flags)
        u.copy(area.address, source, area.length, fails=EEXIST)
        waiter.still("a COPY that failed")
        u.rwprotect(area.address, area.length, 0)
        waiter.ok()
    expect(t.read(area.address, 3), b"new", "the page")
    u.silent("all of this")


@statement(
    115,
    "UFFDIO_SET_MODE that enables RWP_ASYNC releases who waits, and from then on RW-protected pages"
    " are touched without a message.",
    since="7.3",
    source=f"{_GUIDE}; measured on 7.3",
    memories=ALL,
)
def set_mode_releases_waiters(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    area = t.map(memory)
    t.write(area.address, b"old")
    u.register(area.address, area.length, RWP)
    u.rwprotect(area.address, area.length)
    reader = t.thread().blocks(Read(area.address, 3))
    u.fault(area.address, _RWP_READ)
    u.set_mode(Feature.RWP_ASYNC, Feature.RWP_ASYNC, fails=EINVAL)
    u.set_mode(Feature.WP_ASYNC, Feature(0), fails=EINVAL)
    reader.still("a UFFDIO_SET_MODE that failed")
    u.set_mode(Feature.RWP_ASYNC, Feature(0))
    reader.read(b"old")
    expect(t.protected(area.address), False, "the page is protected")
    u.rwprotect(area.address, area.length)
    t.write(area.address, b"new")
    u.silent("a write under RWP_ASYNC")
    u.set_mode(Feature(0), Feature.RWP_ASYNC)
    u.rwprotect(area.address, area.length)
    t.thread().blocks(Read(area.address, 3))
    u.fault(area.address, _RWP_READ)


@statement(
    116,
    "RW protection outlives mprotect(2), is lost by MADV_DONTNEED, and is lifted by"
    " UFFDIO_UNREGISTER and by closing the descriptor.",
    since="7.3",
    source=f"{_GUIDE}; measured on 7.3",
    memories=ALL,
)
def how_long_rw_protection_lasts(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    areas = [t.map(memory) for _ in range(3)]
    for area in areas:
        t.write(area.address, b"page")
        u.register(area.address, area.length, RWP)
        u.rwprotect(area.address, area.length)
        t.ok(Mprotect(area.address, area.length, mman.PROT_READ))
        t.ok(Mprotect(area.address, area.length, READ_WRITE))
        expect(t.protected(area.address), True, "the page is protected after mprotect")
    dropped, unregistered, closed = areas
    t.ok(Madvise(dropped.address, dropped.length, mman.MADV_DONTNEED))
    t.write(dropped.address, b"page")
    u.unregister(unregistered.address, unregistered.length)
    expect(t.read(unregistered.address, 4), b"page", "the page after UFFDIO_UNREGISTER")
    u.silent("the touches")
    u.close()
    expect(t.read(closed.address, 4), b"page", "the page after the close")


# --- What they share -----------------------------------------------------------------------------


def _protected_page(t: Thread, memory: Memory) -> tuple[Uffd, Area]:
    """A page that was written and is protected."""
    u = t.uffd()
    area = t.map(memory)
    t.write(area.address, b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    expect(t.protected(area.address), True, "the page is protected")
    return u, area
