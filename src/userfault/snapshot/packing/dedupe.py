"""Which page contents are known, and in which slot: 20 bytes a page, and a bound that holds.

A record is 16 bytes of the page's BLAKE3 and 4 of its slot.  Records lie unsorted in thousands of
small arrays (the place of a digest is told by Python's keyed hash, so that nobody can craft pages
that all land in one) and are found by searching one of them: about as fast as a dict, at a tenth
of its memory.  Under a bound the table forgets the oldest records of the array that grows:
forgetting costs sharing, never correctness.
"""

from __future__ import annotations

from userfault.snapshot.format.index import PAGE_DIGEST

_SLOT = 4
RECORD = PAGE_DIGEST + _SLOT

# What an array costs empty, and a record with what arrays over-allocate and the heap wastes:
# above what was measured, 27.3 bytes a record in all at 61 records an array.
_ARRAY_COST = 128
RECORD_COST = 26

_FEWEST, _MOST = 1 << 8, 1 << 16
_RECORDS_AN_ARRAY = 32


class PageTable:
    """Digests of pages and their slots; `memory` bounds it, in bytes, or nothing does."""

    def __init__(self, expected: int, memory: int | None = None) -> None:
        if memory is not None:
            expected = min(expected, memory // RECORD_COST)
        arrays = min(max(_FEWEST, expected // _RECORDS_AN_ARRAY), _MOST)
        self._mask = (1 << (arrays.bit_length() - 1)) - 1
        self._arrays = [bytearray() for _ in range(self._mask + 1)]
        self._most = (
            1 << 62
            if memory is None
            else max(0, memory - _ARRAY_COST * len(self._arrays)) // RECORD_COST
        )
        self._count = 0
        self.forgets = False

    def __len__(self) -> int:
        """Records held."""
        return self._count

    @property
    def memory(self) -> int:
        """Bytes taken, at the most."""
        return _ARRAY_COST * len(self._arrays) + RECORD_COST * self._count

    def find(self, digest: bytes) -> int:
        """The slot of the page with this digest, or -1."""
        return _search(self._arrays[hash(digest) & self._mask], digest)

    def find_or_add(self, digest: bytes, slot: int) -> int:
        """The slot of the page with this digest; or -1, and from now on it is `slot`."""
        place = hash(digest) & self._mask
        array = self._arrays[place]
        found = array.find(digest)
        if found >= 0:
            if not found % RECORD:
                return int.from_bytes(array[found + PAGE_DIGEST : found + RECORD], "little")
            known = _search(array, digest)
            if known >= 0:
                return known
        array += digest + slot.to_bytes(_SLOT, "little")
        self._count += 1
        if self._count > self._most:
            self._forget(place)
        return -1

    def _forget(self, place: int) -> None:
        """Drop the older half of an array; it is copied, since a shortened one keeps its memory."""
        array = self._arrays[place]
        dropped = -(-len(array) // RECORD // 2)
        self._arrays[place] = array[dropped * RECORD :]
        self._count -= dropped
        self.forgets = True


def _search(array: bytearray, digest: bytes) -> int:
    found = array.find(digest)
    while found >= 0:
        if not found % RECORD:
            return int.from_bytes(array[found + PAGE_DIGEST : found + RECORD], "little")
        found = array.find(digest, found + 1)  # the end of one record and the start of another
    return -1
