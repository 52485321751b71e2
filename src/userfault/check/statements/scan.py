"""The PAGEMAP_SCAN ioctl of /proc/PID/pagemap, and what WP_ASYNC tracks."""

from __future__ import annotations

from errno import EFAULT, EINVAL, EPERM

import msgspec

from userfault.check.words.area import Area
from userfault.check.words.outcome import expect
from userfault.check.words.scans import pages_in, pages_with, regions, scan_for
from userfault.check.words.statement import ALL, ANON, SHMEM, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PagemapScan, Result
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import pagemap as pm

_GUIDE = "the kernel's admin guide on pagemap"
_MEASURED = "measured on 6.12 to 7.3"

_NONE = Feature(0)


@statement(
    143,
    "Under WP_ASYNC a scan for WRITTEN is empty after everything was protected, and then lists"
    " exactly the pages that were written, without a message.",
    since="6.7",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def the_scan_lists_written_pages(t: Thread, memory: Memory) -> None:
    u, area = _tracked(t, memory, pages=4)
    expect(_written(t, area), [], "written pages after everything was protected")
    t.read(area.at(0))
    t.write(area.at(1), b"w")  # was there
    t.write(area.at(3), b"w")  # was empty
    expect(_written(t, area), [1, 3], "written pages")
    u.silent("the writes")


@statement(
    144,
    "A scan with WP_MATCHING protects the pages that it returns: the next one is empty.",
    since="6.7",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def a_scan_can_protect_again(t: Thread, memory: Memory) -> None:
    u, area = _tracked(t, memory, pages=4)
    for page in (1, 3):
        t.write(area.at(page), b"w")
    matching = pm.PM_SCAN_WP_MATCHING
    expect(_written(t, area, matching), [1, 3], "the first scan")
    expect(_written(t, area, matching), [], "the second scan")
    t.write(area.at(3), b"again")
    expect(_written(t, area, matching), [3], "the scan after another write")
    u.silent("the writes")


@statement(
    145,
    "On a mapping that WP_ASYNC does not track, a scan with CHECK_WPASYNC fails with EPERM, and one"
    " with WP_MATCHING skips it.",
    since="6.7",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def a_scan_can_insist_on_tracking(t: Thread, memory: Memory) -> None:
    area = t.map(memory)
    t.write(area.address, b"page")
    plain = t.uffd()
    both = pm.PM_SCAN_CHECK_WPASYNC | pm.PM_SCAN_WP_MATCHING
    for register in (False, True):
        if register:
            plain.register(area.address, area.length, WP)
        t.fails(scan_for(area, pm.PAGE_IS_WRITTEN, pm.PM_SCAN_CHECK_WPASYNC), EPERM)
        t.fails(scan_for(area, pm.PAGE_IS_WRITTEN, both), EPERM)
        expect(_written(t, area, pm.PM_SCAN_WP_MATCHING), [], "the pages")
        expect(t.protected(area.address), False, "the page is protected")


@statement(
    146,
    "In a mapping that is not registered for WP, a scan reports every page as WRITTEN up to 7.2 (of"
    " hugetlb those that are there), and none since 7.3.",
    since="6.7",
    source="measured on 6.12, 6.18, 7.2 and 7.3; hugetlb: measured on 6.18",
    memories=ALL,
    outcomes={"up to 7.2": "every page", "since 7.3": "none"},
)
def written_outside_of_tracked_mappings(t: Thread, memory: Memory) -> None:
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    every = [0, 1] if area.page == calls.PAGE else [0]
    expect(_written(t, area), [] if t.since("7.3") else every, "the pages")


@statement(
    181,
    "The categories of a page say if it is there, of a file, the zero page, huge, a marker or a"
    " guard, if writes to it are tracked and if it was written.",
    since="6.15",
    source=f"{_GUIDE}; measured on 6.18",
    memories=ALL,
)
def categories_say_what_a_page_is(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, WP, Feature.WP_ASYNC, pages=4)
    t.write(area.at(0), b"page")
    t.read(area.at(1))
    u.writeprotect(area.at(2), area.page)
    always = pm.PAGE_IS_WPALLOWED
    last = always | pm.PAGE_IS_HUGE
    if area.page > calls.PAGE:
        always |= pm.PAGE_IS_HUGE
    else:
        t.ok(calls.Madvise(area.at(3), area.page, mman.MADV_GUARD_INSTALL))
        last = always | pm.PAGE_IS_GUARD | pm.PAGE_IS_SWAPPED | pm.PAGE_IS_WRITTEN
    there = always | pm.PAGE_IS_PRESENT | pm.PAGE_IS_WRITTEN
    written = there | (pm.PAGE_IS_FILE if memory.shared else 0)
    marker = always | pm.PAGE_IS_SWAPPED
    promised = [written, there | _what_a_read_maps(memory), marker, last]
    known = 2 * pm.PAGE_IS_GUARD - 1 - pm.PAGE_IS_SOFT_DIRTY  # which not every build has
    scan = PagemapScan(area.address, area.end, return_mask=known)
    expect(pages_in(area, regions(t, scan)), list(enumerate(promised)), "pages and categories")


def _what_a_read_maps(memory: Memory) -> int:
    """What is special about the page that a read of an empty entry gets."""
    if not memory.minor_faults:
        return pm.PAGE_IS_PFNZERO
    if memory.shared or memory.page_size == calls.PAGE:
        return pm.PAGE_IS_FILE
    return 0  # a private mapping of hugetlb does not share what the file has not


@statement(
    183,
    "Under WP_ASYNC a child without EVENT_FORK is not tracked and its writes are not its parent's;"
    " with EVENT_FORK it is tracked for itself.",
    since="6.7",
    source="measured on 6.18",
    memories=ALL,
)
def tracking_is_of_one_process(t: Thread, memory: Memory) -> None:
    for feature in (Feature(0), Feature.EVENT_FORK):
        u, area = _tracked(t, memory, pages=4, features=feature)
        if area.page > calls.PAGE:
            t.reserve(area.page, 4)
        if feature:
            parent = t.thread().blocks(calls.Fork(), calls.WAITS_EVENT)
            u.message()
            child = t.child(parent.ok().value)
            expect(_written(child, area), [], "the pages that the child has written")
        else:
            child = t.fork()
            child.fails(scan_for(area, pm.PAGE_IS_WRITTEN, pm.PM_SCAN_CHECK_WPASYNC), EPERM)
        child.write(area.at(1), b"child")
        if feature:
            expect(_written(child, area), [1], "the pages that the child has written")
        expect(_written(t, area), [], "the pages that the parent has written")
        t.write(area.at(0), b"parent")
        expect(_written(t, area), [0], "the pages that the parent has written")


@statement(
    184,
    "A scan ends after max_pages pages or when its regions are full; walk_end is where the next one"
    " goes on.",
    since="6.7",
    source=f"{_GUIDE}; measured on 6.18",
    memories=ALL,
)
def a_scan_can_be_done_in_parts(t: Thread, memory: Memory) -> None:
    _, area = _tracked(t, memory, pages=6)
    for page in (0, 1, 2, 5):
        t.write(area.at(page), b"w")
    two_pages = 2 * area.page // calls.PAGE
    by_pages = msgspec.structs.replace(scan_for(area, pm.PAGE_IS_WRITTEN), max_pages=two_pages)
    expect(_part(t, area, by_pages), ([0, 1], 2), "pages and end of a scan for two pages")
    rest = msgspec.structs.replace(by_pages, start=area.at(2))
    expect(_part(t, area, rest), ([2, 5], 6), "pages and end of the next one")
    by_regions = msgspec.structs.replace(scan_for(area, pm.PAGE_IS_WRITTEN), regions=1)
    expect(_part(t, area, by_regions), ([0, 1, 2], 5), "pages and end of a scan for one region")
    rest = msgspec.structs.replace(by_regions, start=area.at(5))
    expect(_part(t, area, rest), ([5], 6), "pages and end of the next one")


@statement(
    225,
    "An empty entry in a page table is WRITTEN where WP is registered; on 6.17 only to a scan for"
    " WRITTEN and nothing else.",
    since="6.7",
    source="measured on 6.12.118, 6.17.13, 6.18, 7.2 and 7.3",
    memories=(*ANON, *SHMEM),
    outcomes={
        "up to 6.12": "always",
        "on 6.17": "to a scan for WRITTEN alone",
        "since 6.18": "always",
    },
)
def empty_entries_are_written(t: Thread, memory: Memory) -> None:
    _, area = t.registered(memory, WP, Feature.WP_ASYNC, pages=3)
    t.write(area.at(0), b"page")  # there is a table now
    expect(_written(t, area), [0, 1, 2], "the pages of a scan for WRITTEN")
    known = pm.PAGE_IS_WRITTEN | pm.PAGE_IS_PRESENT
    found = dict(pages_in(area, regions(t, PagemapScan(area.address, area.end, return_mask=known))))
    always = not t.since("6.17") or t.since("6.18")
    promised = pm.PAGE_IS_WRITTEN if always else 0
    seen = [found.get(page, 0) for page in range(3)]
    expect(seen, [known, promised, promised], "the categories of the pages")


@statement(
    226,
    "A scan writes walk_end back also after an error that ended its walk; an argument that is"
    " refused is left as it was.",
    since="6.7",
    source="measured on 6.12 to 7.3",
    memories=ALL,
)
def the_end_of_a_walk_is_told_after_an_error(t: Thread, memory: Memory) -> None:
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    insisting = scan_for(area, pm.PAGE_IS_WRITTEN, pm.PM_SCAN_CHECK_WPASYNC)
    expect(_end(t.fails(insisting, EPERM)), area.end, "walk_end after EPERM")
    unknown = msgspec.structs.replace(insisting, flags=1 << 20)
    expect(_end(t.fails(unknown, EINVAL)), 0, "walk_end after EINVAL")
    backwards = msgspec.structs.replace(insisting, start=area.end, end=area.address)
    expect(_end(t.fails(backwards, EFAULT)), 0, "walk_end after EFAULT")


@statement(
    250,
    "A scan with room for more regions than the 512 of the kernel's own buffer tells all of them,"
    " and walk_end is where that buffer was emptied last.",
    since="6.7",
    source="fs/proc/task_mmu.c: a full buffer sets walk_end, the end does only where it is 0;"
    " measured on 6.18",
    memories=("shmem",),
)
def the_end_of_a_walk_is_where_the_buffer_was_emptied(t: Thread, memory: Memory) -> None:
    _, area = _tracked(t, memory, pages=1040)
    for page in range(0, 1040, 2):
        t.write(area.at(page), b"w")
    scan = msgspec.structs.replace(scan_for(area, pm.PAGE_IS_WRITTEN), regions=600)
    told, end = _part(t, area, scan)
    expect(told, list(range(0, 1040, 2)), "the pages that are told")
    expect(end, 1024, "walk_end")


def _end(result: Result) -> int:
    (end,) = calls.SCAN_END.struct.unpack_from(result.data)
    return int(end)


def _part(t: Thread, area: Area, scan: PagemapScan) -> tuple[list[int], int]:
    """The pages that a scan reports, and the page at its `walk_end`."""
    (end,) = calls.SCAN_END.struct.unpack_from(t.ok(scan).data)
    found = [page for page, _ in pages_in(area, regions(t, scan))]
    return found, (end - area.address) // area.page


# --- What they share -----------------------------------------------------------------------------


def _tracked(t: Thread, memory: Memory, pages: int, features: Feature = _NONE) -> tuple[Uffd, Area]:
    """Memory under WP_ASYNC, all of it protected; its first half was written before."""
    u = t.uffd(Feature.WP_ASYNC | features)
    area = t.map(memory, pages=pages)
    for page in range(pages // 2):
        t.write(area.at(page), b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    return u, area


def _written(t: Thread, area: Area, flags: int = 0) -> list[int]:
    """The numbers of the pages that a scan for WRITTEN reports."""
    return pages_with(t, area, pm.PAGE_IS_WRITTEN, flags)
