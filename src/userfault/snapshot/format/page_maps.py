"""The memory of a process tree in one snapshot: its pages by page map and address.

A page map is called as its file is in a dump by CRIU: by the pid of a task, or `shmem-ID`.  Each
region of such a snapshot is a range of one map, and says so by its name.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator

from userfault.snapshot.inputs.protocol import Region

# A word about a snapshot that has all pages of a tree, as a dump has sent them.
SENT, SENT_WHOLE = "criu", "page-server"

_PREFIX = "pagemap-"
_LAZY = " lazy"
_SHARED = "shmem-"


def name_of(page_map: str, *, lazy: bool) -> str:
    """The name of a region that has pages of this map.  `lazy`: a restore may leave them out."""
    return f"{_PREFIX}{page_map}{_LAZY if lazy else ''}"


def map_of(name: str) -> tuple[str, bool] | None:
    """The page map that a region's name tells, and whether it is lazy; None for other regions."""
    told = name.removeprefix(_PREFIX)
    if told == name:
        return None
    found = told.removesuffix(_LAZY)
    number = found.removeprefix(_SHARED)
    if not number.isascii() or not number.isdecimal():
        return None
    return found, found != told


class PageMaps:
    """Those of a snapshot with these regions, each in the order of addresses."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self._regions: dict[str, list[Region]] = {}
        for region in sorted(regions, key=lambda each: each.start):
            if (told := map_of(region.name)) is not None:
                self._regions.setdefault(told[0], []).append(region)
        self._starts = {
            each: array("Q", (region.start for region in regions))
            for each, regions in self._regions.items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._regions))

    def regions(self, page_map: str) -> list[Region]:
        """Its ranges."""
        return self._regions[page_map]

    def find(self, page_map: str, address: int) -> tuple[int, int] | None:
        """Where in the image this address is, and how many bytes from there on are of its range;
        None where the map has no page."""
        if page_map not in self._regions:
            return None
        at = bisect.bisect_right(self._starts[page_map], address) - 1
        region = self._regions[page_map][max(at, 0)]
        into = address - region.start
        if not 0 <= into < region.length:
            return None
        return region.offset + into, region.length - into
