"""Pages that describe themselves: each 8-byte word of 4 KiB page `n` holds `n`.

A wrong, torn or shifted page therefore shows, and says where it belongs.
"""

from __future__ import annotations

import struct

PAGE = 4096
_WORDS = PAGE // 8


def page(number: int) -> bytes:
    """The bytes of page `number`."""
    return struct.pack("<Q", number) * _WORDS


def pages(first: int, count: int) -> bytes:
    """The bytes of pages `first` to `first + count - 1`."""
    return b"".join(page(number) for number in range(first, first + count))


def numbers(data: bytes) -> list[int]:
    """Which pages these bytes are; AssertionError where a page holds more than one number."""
    found = []
    for at in range(0, len(data), PAGE):
        words = set(struct.unpack(f"<{_WORDS}Q", data[at : at + PAGE]))
        assert len(words) == 1, f"torn page at {at:#x}: it holds {sorted(words)[:4]}"
        found.append(words.pop())
    return found
