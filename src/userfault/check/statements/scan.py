"""The PAGEMAP_SCAN ioctl of /proc/PID/pagemap, and what WP_ASYNC tracks."""

from __future__ import annotations

from errno import EPERM

from userfault.check.area import Area
from userfault.check.outcome import expect
from userfault.check.statement import ALL, statement
from userfault.check.thread import Thread
from userfault.check.uffd import WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PagemapScan
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import pagemap as pm

_GUIDE = "the kernel's admin guide on pagemap"
_MEASURED = "measured on 6.12 to 7.3"


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
        t.fails(_scan(area, pm.PM_SCAN_CHECK_WPASYNC), EPERM)
        t.fails(_scan(area, both), EPERM)
        expect(_written(t, area, pm.PM_SCAN_WP_MATCHING), [], "the pages")
        expect("W" in t.page(area.address), False, "the page is protected")


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


# --- What they share -----------------------------------------------------------------------------


def _tracked(t: Thread, memory: Memory, pages: int) -> tuple[Uffd, Area]:
    """Memory under WP_ASYNC, all of it protected; its first half was written before."""
    u = t.uffd(Feature.WP_ASYNC)
    area = t.map(memory, pages=pages)
    for page in range(pages // 2):
        t.write(area.at(page), b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    return u, area


def _scan(area: Area, flags: int = 0) -> PagemapScan:
    """A scan for WRITTEN."""
    written = pm.PAGE_IS_WRITTEN
    return PagemapScan(
        area.address, area.end, flags=flags, category_mask=written, return_mask=written
    )


def _written(t: Thread, area: Area, flags: int = 0) -> list[int]:
    """The numbers of the pages that a scan for WRITTEN reports."""
    return [page for page, _ in _pages(area, _regions(t, _scan(area, flags)))]


def _regions(t: Thread, scan: PagemapScan) -> list[tuple[int, int, int]]:
    """What a scan reports: start, end, categories."""
    data = t.ok(scan).data[calls.SCAN_END.size :]
    return list(pm.page_region.struct.iter_unpack(data))


def _pages(area: Area, regions: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Each page of the area that is in a region (the huge ones whole), and its categories."""
    return [
        ((address - area.address) // area.page, categories)
        for start, end, categories in regions
        for address in range(start, end, area.page)
    ]
