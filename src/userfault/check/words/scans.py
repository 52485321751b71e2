"""What PAGEMAP_SCAN says of an area."""

from __future__ import annotations

from userfault.check.words.area import Area
from userfault.check.words.caller import Caller
from userfault.kernel import calls
from userfault.kernel.calls import PagemapScan
from userfault.uapi import pagemap as pm


def scan_for(area: Area, category: int, flags: int = 0) -> PagemapScan:
    """A scan for the pages of a category."""
    return PagemapScan(
        area.address, area.end, flags=flags, category_mask=category, return_mask=category
    )


def regions(t: Caller, scan: PagemapScan) -> list[tuple[int, int, int]]:
    """What a scan reports: start, end, categories."""
    data = t.ok(scan).data[calls.SCAN_END.size :]
    return list(pm.page_region.struct.iter_unpack(data))


def pages_in(area: Area, found: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Each page of the area that is in a region (the huge ones whole), and its categories."""
    return [
        ((address - area.address) // area.page, categories)
        for start, end, categories in found
        for address in range(start, end, area.page)
    ]


def pages_with(t: Caller, area: Area, category: int, flags: int = 0) -> list[int]:
    """The numbers of the pages that a scan for a category reports."""
    return [page for page, _ in pages_in(area, regions(t, scan_for(area, category, flags)))]
