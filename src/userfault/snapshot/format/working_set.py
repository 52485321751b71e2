"""A working set in bytes: the pages that restored programs touch, and when they do for the first
time.

It is kept beside the image that it is of, and tied to that by a digest.  It is a hint: whatever it
says, no byte of a restore depends on it.  Still it comes from outside, so it is checked before it
is believed: its envelope (`envelope.py`), its lengths, and that no page lies outside of the image.
`docs/format.md` gives every byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from pyroaring import BitMap

from userfault.snapshot.errors import FormatError
from userfault.snapshot.format import envelope
from userfault.snapshot.format.first_touch import CLASSES

MAGIC = b"\x89UFW\r\n\x1a\n"
VERSION = 1
TIE_BYTES = 32
# A page that so many restores in a row have not touched is forgotten.  Of a program whose restores
# touch 93 % the same, that keeps what comes in every other restore, and drops what came once.
FORGOTTEN_AFTER = 4
MOST_PAGES = 1 << 32  # pages are numbered in 32 bits
MOST_STORED = 64 << 20  # bytes of an object; one bit a page of 2 TiB

# tie, page size, pages of the image, restores, flags, number of bitmaps, reserved
_HEAD = struct.Struct(f"<{TIE_BYTES}sQQIBBH")
_LENGTH = struct.Struct("<I")
_BITMAPS = CLASSES + FORGOTTEN_AFTER - 1
_STALE = 1


class WorkingSet(msgspec.Struct):
    """Pages of `page_size` bytes of an image of `pages` of them, which `tie` names.

    `classes`: disjoint, by the time of the first touch (`first_touch.py`).  `missed`: disjoint, by
    how many restores in a row have not touched them: one, two, and so on.
    `restores`: how many were recorded.  `stale`: it helped little when it was used last, so that
    the next restore is to be recorded.
    """

    tie: bytes
    page_size: int
    pages: int
    classes: Sequence[BitMap]
    missed: Sequence[BitMap]
    restores: int = 1
    stale: bool = False

    @property
    def all(self) -> BitMap:
        """Every page of it."""
        return BitMap.union(*self.classes)

    def in_order(self) -> Iterator[int]:
        """Its pages: those that are touched first come first."""
        for pages in self.classes:
            yield from pages


def recorded(tie: bytes, page_size: int, pages: int, classes: Iterable[BitMap]) -> WorkingSet:
    """That of one restore."""
    held = list(classes)
    held += [BitMap() for _ in range(CLASSES - len(held))]
    return WorkingSet(tie, page_size, pages, held, [BitMap() for _ in range(FORGOTTEN_AFTER - 1)])


def merged(old: WorkingSet, new: WorkingSet) -> WorkingSet:
    """`old` with what one more restore has touched.

    A page comes as early as it was ever touched.  What `new` lacks is kept for a while.  Of another
    image, or in other pages, `old` counts for nothing.
    """
    if (old.tie, old.page_size, old.pages) != (new.tie, new.page_size, new.pages):
        return new
    touched = new.all
    before_that = [pages - touched for pages in old.missed]
    gone = before_that.pop()
    missed = [(old.all - touched).difference(*old.missed), *before_that]
    classes, seen = [], gone
    for before, now in zip(old.classes, new.classes, strict=True):
        pages = (before | now) - seen
        classes.append(pages)
        seen = seen | pages
    return WorkingSet(old.tie, old.page_size, old.pages, classes, missed, old.restores + 1)


def encode(held: WorkingSet) -> bytes:
    """The object that holds it."""
    bitmaps = [*held.classes, *held.missed]
    flags = _STALE if held.stale else 0
    restores = min(held.restores, (1 << 32) - 1)
    parts = [_HEAD.pack(held.tie, held.page_size, held.pages, restores, flags, len(bitmaps), 0)]
    for pages in bitmaps:
        pages.run_optimize()
        data = pages.serialize()
        parts += [_LENGTH.pack(len(data)), data]
    return envelope.seal(MAGIC, VERSION, b"".join(parts))


def decode(data: bytes, what: str) -> WorkingSet:
    """The set in an object; `what` names it in errors.  Raises FormatError."""
    body = envelope.unseal(data, magic=MAGIC, version=VERSION, most_raw=MOST_STORED, what=what)
    if len(body) < _HEAD.size:
        raise envelope.damaged(what, f"it ends after {len(body)} bytes, within its head")
    tie, page_size, pages, restores, flags, count, reserved = _HEAD.unpack_from(body)
    if count != _BITMAPS or flags & ~_STALE or reserved:
        raise envelope.damaged(what, f"{count} sets of pages, flags {flags:#x}")
    if page_size < 4096 or page_size & (page_size - 1) or not 0 < pages <= MOST_PAGES:
        raise envelope.damaged(what, f"{pages} pages of {page_size} bytes")
    bitmaps = list(_bitmaps(body, count, pages, what))
    classes, missed = bitmaps[:CLASSES], bitmaps[CLASSES:]
    everything = BitMap.union(*classes)
    if len(everything) != sum(map(len, classes)):
        raise envelope.damaged(what, "a page is in two classes")
    if not all(each <= everything for each in missed):
        raise envelope.damaged(what, "a page was missed that is not in it")
    if len(BitMap.union(*missed)) != sum(map(len, missed)):
        raise envelope.damaged(what, "a page was missed twice")
    return WorkingSet(tie, page_size, pages, classes, missed, restores, bool(flags & _STALE))


def _bitmaps(body: bytes, count: int, pages: int, what: str) -> Iterator[BitMap]:
    at = _HEAD.size
    for number in range(count):
        if at + _LENGTH.size > len(body):
            raise envelope.damaged(what, f"it ends before its set {number} of pages")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        data = body[at : at + length]
        try:
            found = BitMap.deserialize(data)  # with its own look at whether it is one
        except ValueError as error:
            raise envelope.damaged(what, f"its set {number} of pages: {error}") from None
        if found.serialize() != data:
            raise envelope.damaged(
                what, f"its set {number} of pages is not written as it should be"
            )
        if found and found.max() >= pages:
            cause = f"page {found.max()} of an image that has {pages}"
            raise FormatError(
                f"{what} has pages outside", cause=cause, cure="let it be recorded anew"
            )
        yield found
        at += length
    if at != len(body):
        raise envelope.damaged(what, f"{len(body) - at} bytes follow it")
