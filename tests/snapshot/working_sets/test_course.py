"""A course has each page of its set once, but for a sample, in the order of first touches."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from helpers.pages import PAGE
from helpers.stores import memory, store
from userfault.snapshot.format.first_touch import CLASSES
from userfault.snapshot.format.working_set import WorkingSet, recorded
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.table import Table, build
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.working_sets import routing
from userfault.snapshot.working_sets.course import Course, written
from userfault.snapshot.working_sets.routing import PIECE_BYTES

PAGES = 3000


def a_set(touched: dict[int, int], page_size: int = PAGE) -> WorkingSet:
    classes = [BitMap() for _ in range(CLASSES)]
    for page, number in touched.items():
        classes[number].add(page)
    return recorded(bytes(32), page_size, PAGES, classes)


def course_of(held: WorkingSet, pages: int = PAGES, **more: object) -> Course:
    options = {"offset": 0, "page_size": PAGE, **more}
    built = routing.build(held, pages=pages, **options)  # type: ignore[arg-type]
    assert built is not None
    course = Course(built)
    assert course.fits(pages)
    return course


def runs_of(course: Course) -> list[tuple[int, int]]:
    return [run for number in range(course.groups) for run in course.group(number)]


def pages_of(course: Course) -> list[int]:
    return [page for first, count in runs_of(course) for page in range(first, first + count)]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 60) | st.integers(0, PAGES - 1), st.integers(0, 3), min_size=1, max_size=70
    )
)
def test_every_page_comes_once_and_the_sample_does_not(touched: dict[int, int]) -> None:
    course = course_of(a_set(touched))
    pages, sample = pages_of(course), set(course.sample)
    assert len(pages) == len(set(pages))
    assert set(touched) - sample <= set(pages)
    assert sample <= set(touched)
    assert [page for page in range(PAGES) if course.has(page)] == sorted(pages)
    assert not sample & set(pages)
    # What comes beside the set lies in gaps of one page, where an ioctl would cost as much.
    for page in set(pages) - set(touched):
        assert {page - 1, page + 1} <= set(pages)
    assert all(count * PAGE <= PIECE_BYTES for _, count in runs_of(course))


def test_what_is_touched_first_comes_first() -> None:
    dice = random.Random(1)
    touched = {page: dice.randrange(4) for page in range(0, PAGES, 4)}
    found = [touched[page] for page in pages_of(course_of(a_set(touched)))]
    assert found == sorted(found)


def test_the_sample_of_a_large_set_is_small(tmp_path: Path) -> None:
    del tmp_path
    course = course_of(a_set(dict.fromkeys(range(PAGES), 0)))
    assert len(course.sample) == 64


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("course")
    name = store(folder / "store", "one", memory(PAGES))
    image = open_image(open_objects(name.parent), "one")
    return Table(build(image, 0, PAGES))


def test_a_chunk_is_read_once_whenever_its_pages_are_touched(table: Table) -> None:
    dice = random.Random(2)
    touched = {page: dice.randrange(CLASSES) for page in dice.sample(range(PAGES), 900)}
    course = course_of(a_set(touched), table=table)
    met: list[int] = []
    for number in range(course.groups):
        chunks = {
            chunk
            for first, count in course.group(number)
            for _, chunk, _, _ in table.pieces(first, count)
            if chunk >= 0
        }
        assert len(chunks) <= 1
        met += chunks
    assert len(met) == len(set(met))
    assert set(touched) - set(course.sample) <= set(pages_of(course))


def test_memory_that_shows_a_part_gets_the_pages_of_that_part() -> None:
    held = a_set(dict.fromkeys(range(100, 110), 0))
    course = course_of(held, pages=6, offset=104 * PAGE)
    assert pages_of(course) == list(range(6))
    assert routing.build(held, offset=200 * PAGE, pages=50, page_size=PAGE) is None


def test_huge_pages_come_where_one_of_theirs_is_in_the_set() -> None:
    held = a_set({5: 0, 513: 2, 514: 0, 2000: 1})
    course = course_of(held, pages=6, page_size=2 << 20)
    assert pages_of(course) == [0, 1, 3]


def test_a_set_of_huge_pages_says_nothing_of_small_ones() -> None:
    held = a_set({1: 0}, page_size=2 << 20)
    assert routing.build(held, offset=0, pages=PAGES, page_size=PAGE) is None


@pytest.mark.parametrize(
    ("groups", "sample"),
    [([[(0, 11)]], []), ([[(9, 2)]], []), ([[(3, 0)]], []), ([[(0, 1)]], [10]),
     ([[(0xFFFFFFFF, 0xFFFFFFFF)]], [])],
)  # fmt: skip
def test_a_course_with_pages_outside_fits_nowhere(
    groups: list[list[tuple[int, int]]], sample: list[int]
) -> None:
    assert not Course(written(groups, sample)).fits(10)
    assert Course(written([[(0, 10)]], [])).fits(10)
