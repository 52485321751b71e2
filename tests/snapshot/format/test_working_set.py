"""A working set comes back from its bytes, no hostile one does, and merging forgets slowly."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from userfault.snapshot.errors import FormatError
from userfault.snapshot.format import envelope
from userfault.snapshot.format.first_touch import CLASSES, class_at, ends
from userfault.snapshot.format.working_set import (
    FORGOTTEN_AFTER,
    MAGIC,
    VERSION,
    WorkingSet,
    decode,
    encode,
    merged,
    recorded,
)

TIE = bytes(range(32))
PAGES = 5000

touches = st.dictionaries(st.integers(0, PAGES - 1), st.integers(0, CLASSES - 1), max_size=60)


def a_set(touched: dict[int, int], pages: int = PAGES, tie: bytes = TIE) -> WorkingSet:
    classes = [BitMap() for _ in range(CLASSES)]
    for page, number in touched.items():
        classes[number].add(page)
    return recorded(tie, 4096, pages, classes)


def times(held: WorkingSet) -> dict[int, int]:
    return {page: number for number, pages in enumerate(held.classes) for page in pages}


@settings(max_examples=50, deadline=None)
@given(touches, touches)
def test_a_set_comes_back_from_its_bytes(first: dict[int, int], then: dict[int, int]) -> None:
    held = merged(a_set(first), a_set(then))
    held.stale = bool(first)
    again = decode(encode(held), "it")
    assert (again.tie, again.page_size, again.pages) == (TIE, 4096, PAGES)
    assert (again.restores, again.stale) == (2, bool(first))
    assert list(again.classes) == list(held.classes)
    assert list(again.missed) == list(held.missed)


@settings(max_examples=100, deadline=None)
@given(st.lists(touches, min_size=1, max_size=7))
def test_a_page_stays_until_so_many_restores_in_a_row_have_not_touched_it(
    restores: list[dict[int, int]],
) -> None:
    held = a_set(restores[0])
    for each in restores[1:]:
        held = merged(held, a_set(each))
    kept = {page for each in restores[-FORGOTTEN_AFTER:] for page in each}
    assert set(held.all) == kept
    missed = {page: count for count, pages in enumerate(held.missed, 1) for page in pages}
    for page in kept:
        since = next(n for n, each in enumerate(reversed(restores)) if page in each)
        assert missed.get(page, 0) == since


@settings(max_examples=50, deadline=None)
@given(touches, touches)
def test_a_page_comes_as_early_as_it_was_ever_touched(
    first: dict[int, int], then: dict[int, int]
) -> None:
    found = times(merged(a_set(first), a_set(then)))
    for page in first.keys() | then.keys():
        assert found[page] == min(first.get(page, CLASSES), then.get(page, CLASSES))


def test_the_set_of_another_image_counts_for_nothing() -> None:
    other = a_set({1: 0}, tie=bytes(32))
    new = a_set({2: 0})
    assert merged(other, new) == new


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bytes_that_were_changed_are_refused(data: st.DataObject) -> None:
    whole = bytearray(encode(a_set({7: 1, 4999: 3})))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FormatError):
        decode(bytes(whole), "it")


@pytest.mark.parametrize("length", [0, 1, 63, 64, 100])
def test_bytes_that_end_early_are_refused(length: int) -> None:
    whole = encode(a_set({7: 1}))
    with pytest.raises(FormatError):
        decode(whole[:length], "it")


def body_of(bitmaps: list[bytes], *, pages: int = PAGES, flags: int = 0, size: int = 4096) -> bytes:
    head = struct.pack("<32sQQIBBH", TIE, size, pages, 1, flags, len(bitmaps), 0)
    return head + b"".join(struct.pack("<I", len(each)) + each for each in bitmaps)


EMPTY = BitMap().serialize()
SEVEN = BitMap([7]).serialize()
COUNT = CLASSES + FORGOTTEN_AFTER - 1
HOSTILE = {
    "a page outside": body_of([BitMap([PAGES]).serialize(), *[EMPTY] * (COUNT - 1)]),
    "a page far outside": body_of([BitMap([(1 << 32) - 1]).serialize(), *[EMPTY] * (COUNT - 1)]),
    "a page twice": body_of([SEVEN, SEVEN, *[EMPTY] * (COUNT - 2)]),
    "missed and not in it": body_of([EMPTY] * CLASSES + [SEVEN] + [EMPTY] * (COUNT - CLASSES - 1)),
    "missed twice": body_of([SEVEN] + [EMPTY] * (CLASSES - 1) + [SEVEN] * (COUNT - CLASSES)),
    "too few sets": body_of([EMPTY] * (COUNT - 1)),
    "too many sets": body_of([EMPTY] * (COUNT + 1)),
    "no bitmap": body_of([b"\xff" * 40, *[EMPTY] * (COUNT - 1)]),
    "a length beyond its end": body_of([EMPTY] * COUNT)[:-4] + b"\xff\xff\xff\x7f",
    "more behind it": body_of([EMPTY] * COUNT) + b"x",
    "an unknown flag": body_of([EMPTY] * COUNT, flags=2),
    "pages of no size": body_of([EMPTY] * COUNT, size=0),
    "pages of an odd size": body_of([EMPTY] * COUNT, size=4097),
    "an image without pages": body_of([EMPTY] * COUNT, pages=0),
    "no head": b"short",
}


@pytest.mark.parametrize("which", HOSTILE)
def test_what_no_restore_wrote_is_refused_though_its_digest_is_right(which: str) -> None:
    with pytest.raises(FormatError):
        decode(envelope.seal(MAGIC, VERSION, HOSTILE[which]), "it")


def test_a_set_of_another_version_says_so() -> None:
    with pytest.raises(FormatError, match="version 2"):
        decode(envelope.seal(MAGIC, 2, body_of([EMPTY] * COUNT)), "it")


def test_times_of_first_touches_are_told_apart_less_and_less() -> None:
    assert [class_at(seconds) for seconds in (0, 0.06, 0.0625, 0.12, 0.3, 1, 3600)] == [
        0, 0, 1, 1, 3, 5, 15,
    ]  # fmt: skip
    for number in range(CLASSES - 1):
        assert class_at(ends(number)) == number + 1
    assert ends(CLASSES - 1) == float("inf")
