"""What each page has to hold now, and what it looks like when it does not."""

from __future__ import annotations

import ctypes
import struct

from userfault.client.memory import Image, Region
from userfault.client.results import Wrong
from userfault.linux import libc
from userfault.uapi import mman

_memcmp = ctypes.CDLL(None).memcmp  # without the GIL: the page may have to be waited for
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_SHOWN = 16
STAMP = 8  # bytes that a write leaves


class Expected:
    """Pages of one size over regions: as the image, zeros (given back), or with a stamp of ours."""

    def __init__(self, image: Image, regions: list[Region], page_size: int) -> None:
        self.page_size = page_size
        self.pages = sum(region.size for region in regions) // page_size
        self._image = image
        self._regions = regions
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        self._zeros = libc.mmap(0, page_size, mman.PROT_READ, flags, -1, 0)
        self._starts = [region.offset // page_size for region in regions]
        self._removed = bytearray(self.pages)
        self._stamps: dict[int, tuple[int, bytes]] = {}  # by page: where in it, what

    def region(self, page: int) -> Region:
        """The one that the page is in."""
        low, high = 0, len(self._starts)
        while high - low > 1:
            middle = (low + high) // 2
            if self._starts[middle] <= page:
                low = middle
            else:
                high = middle
        return self._regions[low]

    def address(self, page: int) -> int:
        """Where it is."""
        region = self.region(page)
        return region.address + page * self.page_size - region.offset

    def is_images(self, page: int) -> bool:
        """Whether nothing was done to it."""
        return not self._removed[page] and page not in self._stamps

    def removed(self, page: int) -> None:
        """It was given back: zeros from now on."""
        self._removed[page] = 1
        self._stamps.pop(page, None)

    def stamp(self, page: int, at: int) -> bytes:
        """What is to be written at byte `at` of it, which is due there from now on."""
        content = struct.pack("<II", page & 0xFFFFFFFF, 0x5EED0000 | (at & 0xFFFF))
        self._stamps[page] = at, content
        return content

    def stamped_at(self, page: int) -> int | None:
        """Where in it a stamp is."""
        found = self._stamps.get(page)
        return found[0] if found else None

    def check(self, page: int) -> Wrong | None:
        """Compare all of its bytes."""
        address, due = self.address(page), self._due(page)
        at, content = self._stamps.get(page, (self.page_size, b""))
        if _memcmp(address, due, at):
            return self._wrong(page, 0, at)
        if content and libc.read_memory(address + at, STAMP) != content:
            return self._told(page, at, content, "what was written there is gone")
        rest = at + len(content)
        if _memcmp(address + rest, due + rest, self.page_size - rest):
            return self._wrong(page, rest, self.page_size)
        return None

    def _due(self, page: int) -> int:
        return self._zeros if self._removed[page] else self._image.address + page * self.page_size

    def _wrong(self, page: int, start: int, end: int) -> Wrong:
        """The first difference in these bytes of the page."""
        here = libc.read_memory(self.address(page) + start, end - start)
        due = libc.read_memory(self._due(page) + start, end - start)
        differ = (at for at in range(end - start) if here[at] != due[at])
        first = next(differ, 0)
        what = self._looks_like(page, here, start)
        return self._told(page, start + first, due[first : first + _SHOWN], what)

    def _told(self, page: int, at: int, due: bytes, what: str) -> Wrong:
        address = self.address(page) + at
        length = min(_SHOWN, self.page_size - at)
        found = libc.read_memory(address, length)
        return Wrong(address, page * self.page_size + at, due.hex(), found.hex(), what)

    def _looks_like(self, page: int, here: bytes, start: int) -> str:
        image = libc.read_memory(self._image.address + page * self.page_size + start, len(here))
        if self._removed[page]:
            old = "the image's bytes after the page was given back"
            return old if here == image else "no zeros after the page was given back"
        if not any(here):
            return "zeros where the image's bytes are due"
        other = None if start else self._image.page_of(here[:_SHOWN], self.page_size)
        if other not in (None, page):
            return f"it begins as page {other} of the image does"
        return "bytes that are not the image's"
