"""The order in which a resumed process would touch its pages: follow the pointers in the image.

An 8-byte word whose value lies in a captured mapping is taken for a pointer.  From the stack, then
from the heap and the writable data of libraries, the traversal goes depth first, as a program does
that walks its data.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator

from userfault.cli.demo.capture import Image, Mapping
from userfault.kernel.memtypes import BASE_PAGE

# Words looked at in each page, evenly spaced: reaches most at half the time.
_WORDS_LOOKED_AT = 256
_SHIFT = BASE_PAGE.bit_length() - 1
_WORDS = BASE_PAGE // 8


def touch_order(image: Image, data: mmap.mmap, limit: int | None = None) -> array[int]:
    """Page numbers of the image, in the order reached; at most `limit` of them."""
    page_of = _page_table(image)
    order: array[int] = array("I")
    limit = image.length // BASE_PAGE if limit is None else limit
    seen = bytearray(image.length // BASE_PAGE)
    with memoryview(data) as view, view.cast("Q") as words:
        for root in _roots(image):
            stack = [root]
            while stack and len(order) < limit:
                page = stack.pop()
                if seen[page]:
                    continue
                seen[page] = 1
                order.append(page)
                stack.extend(_pointers(words, page, page_of, seen))
    return order


def _page_table(image: Image) -> dict[int, int]:
    """Address of a page in the process, as a page number -> its page number in the image."""
    return {
        (mapping.start >> _SHIFT) + at: (mapping.offset >> _SHIFT) + at
        for mapping in image.mappings
        for at in range(mapping.length >> _SHIFT)
    }


def _roots(image: Image) -> Iterator[int]:
    """Where a resumed process starts: its stack from the top down, heap, then writable data."""
    for mapping in sorted(image.mappings, key=_rank):
        pages = range(mapping.offset >> _SHIFT, (mapping.offset + mapping.length) >> _SHIFT)
        if mapping.name == "[stack]":
            yield from reversed(pages)
        elif mapping.name == "[heap]":
            yield pages[0]
        elif mapping.name and "w" in mapping.permissions:
            yield from pages


def _rank(mapping: Mapping) -> int:
    return {"[stack]": 0, "[heap]": 1}.get(mapping.name, 2)


def _pointers(
    words: memoryview[int], page: int, page_of: dict[int, int], seen: bytearray
) -> list[int]:
    """Pages not seen yet that this page points to, the last pointer first."""
    start = page * _WORDS
    held = words[start : start + _WORDS : _WORDS // _WORDS_LOOKED_AT].tolist()
    get = page_of.get
    found = [
        other for word in held if (other := get(word >> _SHIFT)) is not None and not seen[other]
    ]
    found.reverse()
    return found
