"""Regions of a client's memory, and what they must be to be served: the same for each protocol."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from userfault.kernel.memtypes import TRAITS, size_name
from userfault.wire.errors import BadMessageError

HIGHEST = 1 << 57  # no user address lies above (x86-64 with five levels)
_LARGEST = 1 << 63  # of what a file can have
PAGE_SIZES = tuple(sorted({size for traits in TRAITS.values() for size in traits.page_sizes}))


class Region(msgspec.Struct, frozen=True):
    """`size` bytes at `address` in the client show the source's from `offset` on."""

    address: int
    size: int
    offset: int


class Geometry(msgspec.Struct, frozen=True):
    """Regions that were checked, by address.  `length`: of the source, as far as it is shown."""

    page_size: int
    regions: tuple[Region, ...]
    length: int


def checked(regions: Iterable[Region], page_size: int, most: int) -> Geometry:
    """The regions as they may be served.

    Raises BadMessageError for page sizes that no memory has, more than `most` regions, what is no
    whole pages, wraps around, or overlaps in memory or in the source.
    """
    held = sorted(regions, key=lambda region: region.address)
    _hold(bool(held), "it names no region", "")
    _hold(len(held) <= most, f"it names {len(held)} regions", f"{most} are allowed")
    sizes = ", ".join(map(size_name, PAGE_SIZES))
    _hold(page_size in PAGE_SIZES, f"pages of {page_size} bytes", f"there are pages of {sizes}")
    behind = 0
    for each in held:
        where = f"the region at {each.address:#x}"
        for name in ("address", "size", "offset"):
            value = getattr(each, name)
            _hold(value % page_size == 0, f"{where}: {name} {value:#x}", "it is no whole pages")
        _hold(each.size > 0, where, "it is empty")
        _hold(each.address + each.size <= HIGHEST, where, "it ends behind all addresses")
        _hold(each.offset + each.size <= _LARGEST, where, "no source is as long as its offset says")
        _hold(behind <= each.address, where, "it overlaps the region before it")
        behind = each.address + each.size
    behind = 0
    for each in sorted(held, key=lambda region: region.offset):
        where = f"the region at {each.address:#x}"
        _hold(behind <= each.offset, where, f"offset {each.offset:#x} is another region's too")
        behind = each.offset + each.size
    return Geometry(page_size, tuple(held), behind)


def _hold(right: bool, what: str, why: str) -> None:
    if not right:
        raise BadMessageError(
            "the regions cannot be served",
            cause=f"{what}: {why}" if why else what,
            cure="the message must describe memory that the client has registered",
        )
