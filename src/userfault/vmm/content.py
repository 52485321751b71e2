"""What is in a guest's memory in the beginning: each page tells which one it is."""

from __future__ import annotations

import struct

from userfault.kernel.memtypes import BASE_PAGE

_SPREAD = 0x9E3779B97F4A7C15  # 2^64 by the golden ratio: no two pages begin alike
_WORD = (1 << 64) - 1


def words(page: int) -> tuple[int, int]:
    """The first two words of a page of 4 KiB."""
    return page * _SPREAD & _WORD, page


def content(first: int, count: int) -> bytes:
    """`count` pages of 4 KiB from page `first`."""
    pages = range(first, first + count)
    return b"".join(struct.pack("<2Q", *words(page)).ljust(BASE_PAGE, b"\0") for page in pages)
