"""What is tracked: where an object's bytes lie, and which whole pages of that are its own."""

from __future__ import annotations

import mmap
import os
from typing import Any

import msgspec

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux import maps
from userfault.linux.libc import Pinned
from userfault.linux.smaps import page_size_at

# Of these only smaps tells the size of the pages; it walks page tables, so others are not asked.
_MAY_BE_HUGE = ("/memfd:", "/anon_hugepage", "/SYSV")


class Target(msgspec.Struct):
    """[`address`, `address` + `length`) of an object, which `pinned` keeps in place.

    `first` and `last`: the range of whole pages that nobody else has bytes in; what is before and
    behind it of the object are its edges.  `private`: anonymous, and nobody else can write it.
    """

    pinned: Pinned
    address: int
    length: int
    page_size: int
    first: int
    last: int
    private: bool

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Address ranges of parts of pages, of which others have the rest."""
        end = self.address + self.length
        if self.first >= self.last:
            return [(self.address, end)]
        return [
            (start, stop)
            for start, stop in ((self.address, self.first), (self.last, end))
            if start < stop
        ]


def target(thing: Any) -> Target:
    """Where the bytes of `thing` lie.  Raises UsageError for what has none, or not in one piece."""
    pinned = _pinned(thing)
    try:
        return _within(pinned, whole=isinstance(thing, mmap.mmap))
    except BaseException:
        pinned.release()
        raise


def _within(pinned: Pinned, *, whole: bool) -> Target:
    address, length = pinned.address, pinned.length
    end = address + length
    found = [each for each in maps.mappings(os.getpid()) if each.start < end and each.end > address]
    page_size = _page_size(found)
    first = -(-address // page_size) * page_size
    # A mapping's last page is its own, however few bytes of it the object shows.
    last = (-(-end // page_size) if whole else end // page_size) * page_size
    private = all(not each.inode and not each.shared for each in found)
    return Target(pinned, address, length, page_size, first, max(first, last), private)


def _pinned(thing: Any) -> Pinned:
    try:
        try:
            pinned = Pinned(thing)
        except (BufferError, ValueError):  # NumPy's is the second
            if not memoryview(thing).f_contiguous:
                raise
            pinned = Pinned(thing.T)  # the same bytes, in the order in which they lie
    except (TypeError, ValueError, BufferError, AttributeError) as error:
        raise UsageError(
            f"cannot track {type(thing).__name__}",
            cause=f"its memory cannot be had in one piece: {error}",
            cure="pass a mmap.mmap, a contiguous array (of dates: array.view('u1')), a bytearray",
        ) from None
    if not pinned.length:
        pinned.release()
        raise UsageError(
            f"cannot track {type(thing).__name__}", cause="it has no bytes", cure="track it later"
        )
    return pinned


def _page_size(found: list[maps.Mapping]) -> int:
    huge = maps.hugetlb_devices(os.getpid())
    for each in found:
        if each.name.startswith(_MAY_BE_HUGE) or each.device in huge:
            return page_size_at(os.getpid(), each.start)
    return BASE_PAGE
