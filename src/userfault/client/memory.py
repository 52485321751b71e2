"""The image that a client expects, and the memory in which it expects it."""

from __future__ import annotations

import os
from typing import NamedTuple

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import MIB, MemoryType, round_up
from userfault.kernel.memtypes import Memory as Kind
from userfault.linux import libc
from userfault.linux.memory import Recipe, mapped
from userfault.uapi import mman

_BASE = 4096
_READ_WRITE = mman.PROT_READ | mman.PROT_WRITE


class Region(NamedTuple):
    """Memory: where it is, how large, and where its bytes begin in the image."""

    address: int
    size: int
    offset: int


class Image:
    """A memory file, mapped: what is due at each place.  Behind its end zeros are due, to the end
    of a page of the memory."""

    def __init__(self, path: str, page_size: int) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.bytes = os.fstat(self.fd).st_size
        if not self.bytes:
            raise UsageError(
                f"the image {path}", cause="it is empty", cure="name the memory file of a snapshot"
            )
        self.length = round_up(self.bytes, page_size)
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        self.address = libc.mmap(0, self.length, mman.PROT_READ, flags, -1, 0)
        shared = mman.MAP_SHARED | mman.MAP_FIXED
        libc.mmap(self.address, self.bytes, mman.PROT_READ, shared, self.fd, 0)

    def page_of(self, piece: bytes, page_size: int) -> int | None:
        """The number of a page that begins with these bytes: whose they are, if they are another
        one's."""
        for page in range(min(self.bytes // page_size, 1 << 18)):
            if os.pread(self.fd, len(piece), page * page_size) == piece:
                return page
        return None


def sizes(total: int, page_size: int, regions: int) -> list[int]:
    """A length in pieces that grow: 1, 2, 3... parts of it, so that no two are alike.

    >>> sizes(6 * 4096, 4096, 3)
    [4096, 8192, 12288]
    """
    pages = total // page_size
    if not 0 < regions <= pages:
        raise UsageError(
            f"{regions} regions", cause=f"the image has {pages} pages", cure="ask for fewer"
        )
    parts = regions * (regions + 1) // 2
    found = [max(pages * each // parts, 1) for each in range(1, regions + 1)]
    found[-1] += pages - sum(found)
    if found[-1] < 1:  # few pages for so many: one each, and the rest to the last
        found = [1] * (regions - 1) + [pages - regions + 1]
    return [each * page_size for each in found]


def checked(wanted: list[int], total: int, page_size: int) -> list[int]:
    """Sizes that somebody named.  Raises UsageError where they are not pages, or not the image."""
    if any(size <= 0 or size % page_size for size in wanted) or sum(wanted) != total:
        raise UsageError(
            f"regions of {', '.join(map(str, wanted))} bytes",
            cause=f"they have to be whole pages of {page_size} bytes, {total} bytes together",
            cure="name other sizes, or a number of regions",
        )
    return wanted


def mapped_regions(wanted: list[int], page_size: int, *, advise_huge: bool) -> list[Region]:
    """Private memory of these sizes, with room that is not mapped around each.

    Huge pages come from the pool as it is.  Raises MemoryUnavailable.
    """
    huge = page_size > _BASE
    kind = Kind(MemoryType.HUGETLB if huge else MemoryType.ANON, page_size, False)
    found, offset = [], 0
    align = 2 * MIB if huge or advise_huge else page_size
    for size in wanted:
        nothing = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        room = libc.mmap(0, size + 3 * align, mman.PROT_NONE, nothing, -1, 0)
        address = round_up(room + align, align)

        def there(recipe: Recipe, address: int = address) -> int:
            flags = recipe.flags | mman.MAP_FIXED | mman.MAP_NORESERVE
            return libc.mmap(address, recipe.length, _READ_WRITE, flags, recipe.fd, 0)

        mapped(kind, size, there)
        if advise_huge:
            libc.madvise(address, size, mman.MADV_HUGEPAGE)
        found.append(Region(address, size, offset))
        offset += size
    return found
