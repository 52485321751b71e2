"""Differences between snapshots are those of their bytes, however they are stored."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshot.dumps import page
from snapshot.images import BASE, HOLE, ZERO, Page, Pages
from userfault.snapshot.errors import StoreError
from userfault.snapshot.inputs.protocol import PAGE, PageInput, Region
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.diff import Change, Difference, diff

CHANGED, ADDED, REMOVED = Change.CHANGED, Change.ADDED, Change.REMOVED
WORD = b"a word. " * (PAGE // 8)


def packed(folder: Path, name: str, pages: PageInput, *, base: str | None = None) -> None:
    pack(open_objects(folder), name, pages, base=base, chunk_size=4 * PAGE)


def between(
    old: Path, new: Path, names: tuple[str, str] = ("old", "new")
) -> list[tuple[int, int, Change]]:
    """Start in pages, count and kind of each difference."""
    images = [
        open_image(open_objects(store), name) for store, name in zip((old, new), names, strict=True)
    ]
    with (
        contextlib.closing(open_reader(str(old))) as first,
        contextlib.closing(open_reader(str(new))) as second,
    ):
        found: list[Difference] = list(diff(images[0], first, images[1], second))
    return [(each.start // PAGE, each.pages, each.change) for each in found]


def test_kinds_that_read_alike_are_equal(tmp_path: Path) -> None:
    old: list[Page] = [ZERO, HOLE, bytes(PAGE), WORD, page(1), page(2)]
    new: list[Page] = [HOLE, bytes(PAGE), ZERO, WORD, page(1), page(2)]
    packed(tmp_path, "old", Pages(old))
    packed(tmp_path, "new", Pages(new))
    assert between(tmp_path, tmp_path) == []


def test_runs_are_as_long_as_can_be(tmp_path: Path) -> None:
    old = [page(n) for n in range(40)]
    new: list[Page] = list(old)
    new[3:11] = [ZERO, WORD, *(page(100 + n) for n in range(6))]
    new[39] = HOLE
    packed(tmp_path, "old", Pages(old))
    packed(tmp_path, "new", Pages(new))
    assert between(tmp_path, tmp_path) == [(3, 8, CHANGED), (39, 1, CHANGED)]


def test_a_longer_and_a_shorter_image(tmp_path: Path) -> None:
    packed(tmp_path, "short", Pages([page(1)]))
    packed(tmp_path, "long", Pages([page(1), ZERO, page(2)]))
    assert between(tmp_path, tmp_path, ("short", "long")) == [(1, 2, ADDED)]
    assert between(tmp_path, tmp_path, ("long", "short")) == [(1, 2, REMOVED)]


def test_process_images_are_compared_by_address(tmp_path: Path) -> None:
    """A new mapping below moves what lies above in the image, and changes nothing there."""
    heap, stack = 0x10, 0x100
    old = [Region(heap * PAGE, 2 * PAGE, 0), Region(stack * PAGE, 2 * PAGE, 2 * PAGE)]
    new = [
        Region(heap * PAGE, 3 * PAGE, 0),
        Region(0x80 * PAGE, PAGE, 3 * PAGE),
        Region((stack + 1) * PAGE, PAGE, 4 * PAGE),
    ]
    packed(tmp_path, "old", Pages([page(1), page(2), page(3), page(4)], regions=old))
    packed(tmp_path, "new", Pages([page(1), page(9), ZERO, page(5), page(4)], regions=new))
    assert between(tmp_path, tmp_path) == [
        (heap + 1, 1, CHANGED),
        (heap + 2, 1, ADDED),
        (0x80, 1, ADDED),
        (stack, 1, REMOVED),
    ]


def test_equal_chunks_are_not_read(tmp_path: Path) -> None:
    packed(tmp_path, "old", Pages([page(n) for n in range(64)]))
    packed(tmp_path, "new", Pages([BASE] * 63 + [ZERO]), base="old")
    image, names = open_image(open_objects(tmp_path), "new"), tmp_path / "chunks"
    last = image.chunks.digest(len(image.chunks) - 1).hex()
    for each in names.glob("*/*"):
        if each.name != last:
            each.write_bytes(b"damaged")
    assert between(tmp_path, tmp_path) == [(63, 1, CHANGED)]


def test_a_damaged_chunk_that_must_be_read_is_an_error(tmp_path: Path) -> None:
    packed(tmp_path, "old", Pages([page(1)]))
    packed(tmp_path, "new", Pages([ZERO]))
    for each in (tmp_path / "chunks").glob("*/*"):
        each.write_bytes(b"damaged")
    with pytest.raises(StoreError):
        between(tmp_path, tmp_path)


NAMES = map(str, itertools.count())
CONTENT = st.sampled_from([HOLE, ZERO, bytes(PAGE), WORD, *(page(n) for n in range(8))])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    old=st.lists(CONTENT, max_size=40),
    new=st.lists(CONTENT, max_size=40),
    apart=st.booleans(),
)
def test_differences_are_those_of_the_bytes(
    tmp_path: Path, old: list[Page], new: list[Page], apart: bool
) -> None:
    """In one store, or in two that know nothing of each other."""
    name = next(NAMES)
    stores = (tmp_path / "one", tmp_path / ("two" if apart else "one"))
    packed(stores[0], f"o{name}", Pages(old))
    packed(stores[1], f"n{name}", Pages(new))
    expected = {}
    for at in range(max(len(old), len(new))):
        a, b = ([*each, None][min(at, len(each))] for each in (old, new))
        if a is None or b is None:
            expected[at] = ADDED if a is None else REMOVED
        elif _bytes(a) != _bytes(b):
            expected[at] = CHANGED
    found = between(*stores, (f"o{name}", f"n{name}"))
    assert {start + n: change for start, count, change in found for n in range(count)} == expected


def _bytes(content: Page) -> bytes:
    return content if isinstance(content, bytes) else bytes(PAGE)
