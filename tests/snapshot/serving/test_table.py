"""The table by which an image is served says of every page what the image says of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from helpers.pages import PAGE
from helpers.stores import memory, store
from userfault.kernel.errors import UsageError
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.serving import handover
from userfault.snapshot.serving.image import Image, open_image
from userfault.snapshot.serving.table import Coarse, Table, build, sealed
from userfault.snapshot.stores.opening import open_objects

PAGES = 900


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "layers"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image with pages of every class, also one of two layers."""
    folder = tmp_path_factory.mktemp("table") / "store"
    data = memory(PAGES)
    store(folder, "one", data)
    if not request.param:
        return open_image(open_objects(folder), "one")
    other = bytearray(data)
    for page in random.Random(4).sample(range(PAGES), 90):
        other[page * PAGE : (page + 1) * PAGE] = memory(1, seed=page)
    store(folder, "two", bytes(other), base="one")
    return open_image(open_objects(folder), "two")


def truth(image: Image) -> list[tuple[bytes, int, int] | int]:
    """Of each page: its chunk's digest, length and slot; or the word that it is made of."""
    found: list[tuple[bytes, int, int] | int] = []
    for extent in image.extents(0, image.pages):
        for number in range(extent.count):
            if extent.kind is Kind.CHUNK:
                digest = image.chunks.digest(extent.chunk)
                length = image.chunks.stored_length(extent.chunk)
                found.append((digest, length, extent.slot + number))
            else:
                found.append(extent.word if extent.kind is Kind.WORD else 0)
    return found


def told(table: Table) -> list[tuple[bytes, int, int] | int]:
    """The same by the table."""
    found: list[tuple[bytes, int, int] | int] = []
    for count, chunk, slot, word in table.pieces(0, table.pages):
        for number in range(count):
            if chunk < 0:
                found.append(word)
            else:
                length = table.stored_length(chunk)
                found.append((table.digest(chunk), length, slot + number))
    return found + [0] * (table.pages - len(found))


@pytest.mark.parametrize(("first", "count"), [(0, PAGES), (100, 500), (899, 1), (7, 3)])
def test_a_table_of_any_part_of_an_image_has_its_pages(
    image: Image, first: int, count: int
) -> None:
    assert told(Table(build(image, first, count))) == truth(image)[first : first + count]


def test_one_look_finds_what_pieces_find(image: Image) -> None:
    table = Table(build(image, 0, PAGES))
    dice = random.Random(3)
    for _ in range(2000):
        page, count = dice.randrange(PAGES), dice.choice((1, 1, 2, 8, 32))
        pieces = list(table.pieces(page, count))
        found = table.piece(page, count)
        if found is not None:
            assert pieces == [(count, *found)]
        elif page + count <= PAGES:
            low, high, zeros = table.at(page)
            assert zeros or not low <= page + count <= high


@pytest.mark.parametrize("ratio", [1, 4, 64])
def test_stretches_tile_the_memory_and_turns_name_each_of_them_once(
    image: Image, ratio: int
) -> None:
    table = Table(build(image, 0, PAGES))
    layout = table if ratio == 1 else Coarse(table, ratio * PAGE)
    pages = -(-PAGES // ratio)
    zeros = [
        all(isinstance(each, int) and not each for each in truth(image)[page * ratio :][:ratio])
        for page in range(pages)
    ]
    assert [layout.at(page)[2] for page in range(pages)] == zeros
    for page in range(pages):
        low, high, _ = layout.at(page)
        assert low <= page < high
        assert {layout.at(each)[:2] for each in range(low, high)} == {(low, high)}
    covered = [layout.turn(number) for number in range(layout.turns)]
    blank = [layout.zero_turn(number) for number in range(layout.zero_turns)]
    for runs, kind in ((covered, False), (blank, True)):
        counted = sorted(page for start, count in runs for page in range(start, start + count))
        assert counted == [page for page in range(pages) if zeros[page] is kind]


def test_turns_go_chunk_by_chunk_in_the_order_of_the_store(image: Image) -> None:
    table = Table(build(image, 0, PAGES))
    order = []
    for number in range(table.turns):
        found = table.piece(table.turn(number)[0], 1)
        assert found is not None
        order.append(found[0] if found[0] >= 0 else table.chunks)
    assert order == sorted(order)
    digests = [table.digest(chunk) for chunk in range(table.chunks)]
    stored = [image.chunks.digest(chunk) for chunk in range(len(image.chunks))]
    assert digests == [digest for digest in dict.fromkeys(stored) if digest in set(digests)]


def test_the_company_of_a_page_is_every_stretch_of_its_chunk(image: Image) -> None:
    table = Table(build(image, 0, PAGES))
    where = truth(image)
    for page in random.Random(8).sample(range(PAGES), 100):
        first, last = table.company(page)
        mine = {
            each
            for number in range(first, last)
            for start, count in [table.turn(number)]
            for each in range(start, start + count)
        }
        here = where[page]
        if isinstance(here, int):
            assert not mine
        else:
            same = {
                n for n, one in enumerate(where) if not isinstance(one, int) and one[0] == here[0]
            }
            assert mine == same


def test_a_sealed_table_cannot_be_changed(image: Image) -> None:
    fd = sealed(build(image, 0, PAGES))
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 10)
    finally:
        os.close(fd)


def test_a_range_that_is_not_in_the_image_is_refused(tmp_path: Path) -> None:
    store(tmp_path / "store", "one", b"x" * PAGE)
    for offset, length in ((PAGE, None), (0, PAGE + 1), (0, 0), (-PAGE, None), (10, 10)):
        with pytest.raises(UsageError):
            handover.resolve(str(tmp_path / "store"), "one", offset=offset, length=length)
