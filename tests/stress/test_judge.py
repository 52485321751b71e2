"""The judge of the stress test: it takes no race for a fault, and finds what is planted."""

from __future__ import annotations

import ctypes
import signal

import pytest

from helpers import child
from helpers.skips import absent, need_root
from stress import plants
from stress.board import PLANTS
from stress.build import build
from stress.run import Options, pools, run
from userfault.check.live.agent.build import NoAgent

RIGHT, WRONG, UNDECIDED = range(3)
ZEROS, SIGBUSES = 1, 2  # besides
A, B, C, D = (1 << 56 | version << 24 | 1 for version in range(4))
SCENES = "stress.scenes:"


class Page(ctypes.Structure):
    """`struct page` of judge.h."""

    _fields_ = [
        ("seq", ctypes.c_uint64),
        ("shown", ctypes.c_uint64),
        ("coming", ctypes.c_uint64),
        ("besides", ctypes.c_uint64 * 2),
        *((name, ctypes.c_uint32) for name in ("busy", "seen", "last_op", "poor", "planted")),
    ]
    shown: int
    poor: int


class Table:
    """A page's entry, what changes it, and a reader."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.page = Page(shown=A, coming=A)

    def look(self) -> bytes:
        look = ctypes.create_string_buffer(8 * 6)
        self._library.stress_look(ctypes.byref(self.page), look)
        return look.raw

    def begin(self, coming: int, besides: int = 0) -> None:
        self._library.stress_begin_change(
            ctypes.byref(self.page), ctypes.c_uint64(coming), ctypes.c_uint64(besides)
        )

    def end(self, shown: int) -> None:
        self._library.stress_end_change(ctypes.byref(self.page), ctypes.c_uint64(shown))

    def change(self, to: int, besides: int = 0) -> None:
        self.begin(to, besides)
        self.end(to)

    def verdict(self, before: bytes, *words: int, met: int = 0) -> int:
        """On `words` (or a signal) met between the look `before` and now."""
        seen = (ctypes.c_uint64 * len(words))(*words)
        return int(
            self._library.stress_judge(met, seen, ctypes.c_uint64(len(words)), before, self.look())
        )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(build(tmp_path_factory.mktemp("toucher"))))
    except NoAgent as error:
        absent(str(error))


@pytest.fixture
def table(library: ctypes.CDLL) -> Table:
    return Table(library)


# --- a reader meets changes -----------------------------------------------------------------------


def test_words_that_the_page_showed_between_two_looks_are_right(table: Table) -> None:
    before = table.look()
    table.begin(B)
    assert table.verdict(before, A, B) == RIGHT
    within = table.look()
    table.end(B)
    assert table.verdict(before, A, B) == RIGHT
    table.begin(C)
    assert table.verdict(within, A, B, C) == RIGHT
    table.end(C)
    assert table.verdict(within, B, C) == RIGHT


def test_a_word_from_before_is_wrong(table: Table) -> None:
    table.change(B)
    before = table.look()
    assert table.verdict(before, A) == WRONG
    assert table.verdict(before, B, B, A) == WRONG
    table.change(C)
    assert table.verdict(before, A) == WRONG
    assert table.verdict(before, D) == WRONG


def test_a_word_whose_change_no_look_has_seen_is_not_judged(table: Table) -> None:
    """The second change has put its word in the table, and not yet said that it has ended."""
    before = table.look()
    table.change(B)
    table.begin(C)
    table.page.shown = C  # the first store of `end_change`; its last is to come
    assert table.verdict(before, B) == UNDECIDED
    table.end(C)
    assert table.verdict(before, B) == UNDECIDED


def test_a_look_within_a_change_knows_its_word_until_the_next_change_has_ended(
    table: Table,
) -> None:
    table.begin(B)
    within = table.look()
    table.end(B)
    table.begin(C)
    table.page.shown = C
    assert table.verdict(within, B) == RIGHT
    assert table.verdict(within, D) == WRONG
    table.end(C)
    assert table.verdict(within, B) == RIGHT
    table.begin(D)
    assert table.verdict(within, B) == UNDECIDED


# --- a write through the alias of a page that was never filled ------------------------------------


def test_zeros_are_right_while_such_a_write_is_under_way(table: Table) -> None:
    before = table.look()
    table.begin(B, ZEROS)
    within = table.look()
    assert table.verdict(before, B, 0, 0) == RIGHT
    table.end(B)
    assert table.verdict(before, B, 0, 0) == RIGHT
    assert table.verdict(within, B, 0, 0) == RIGHT
    table.change(C)
    assert table.verdict(within, 0) == RIGHT


def test_zeros_are_wrong_before_and_after_it(table: Table) -> None:
    before = table.look()
    assert table.verdict(before, A, 0) == WRONG
    table.change(B, ZEROS)
    after = table.look()
    assert table.verdict(after, B, 0) == WRONG
    table.begin(C)
    assert table.verdict(after, B, 0) == WRONG


# --- an empty pool of huge pages ------------------------------------------------------------------


def test_sigbus_is_right_while_a_hole_has_no_place_in_the_pool(table: Table) -> None:
    before = table.look()
    table.begin(0, SIGBUSES)
    assert table.verdict(before, met=signal.SIGBUS) == RIGHT
    table.page.poor = 1
    table.end(0)
    assert table.verdict(table.look(), met=signal.SIGBUS) == RIGHT
    assert table.verdict(table.look(), B) == WRONG


def test_sigbus_is_wrong_once_it_has_one(table: Table) -> None:
    assert table.verdict(table.look(), met=signal.SIGBUS) == WRONG
    table.change(0, SIGBUSES)
    before = table.look()
    assert table.verdict(before, met=signal.SIGBUS) == WRONG
    table.change(B)
    assert table.verdict(before, met=signal.SIGBUS) == WRONG


@pytest.mark.timeout(120)
def test_another_user_of_huge_pages_raises_no_alarm() -> None:
    need_root()
    options = Options(kills=30, memory=("hugetlb",))
    with pools(options):
        thief = child.start(SCENES + "take_free_huge_pages", None)
        try:
            result = run(options, lambda _: None)
        except NoAgent as error:
            absent(str(error))
        finally:
            thief.kill()
            thief.communicate()
    assert result.good, "\n".join(result.details)


# --- mremap ---------------------------------------------------------------------------------------


def test_a_move_that_fails_half_way_is_followed() -> None:
    """Since 6.17 mremap moves several mappings one by one, and none that is registered."""
    assert child.run(SCENES + "move_of_two_mappings", 6, 3) == []


# --- planted mistakes -----------------------------------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("mistake", "memory"),
    [
        ("stale", "anon"),
        ("stale", "hugetlb"),
        ("zeroed", "shmem"),
        ("half", "shmem"),
        ("half", "hugetlb"),
        ("lost", "anon"),
        ("lost", "hugetlb"),
        ("sigbus", "hugetlb"),
    ],
)
def test_a_planted_mistake_is_found(mistake: str, memory: str) -> None:
    need_root()  # huge pages, fork events
    try:
        result = plants.hunt(mistake, memory)
    except NoAgent as error:
        absent(str(error))
    assert plants.is_found(result), "\n".join(result.details)
    assert "the page table has" in result.details[0]  # one alarm has to be enough to explain it
    assert any(line.startswith("mapped around 0x") for line in result.details)


def test_a_client_that_crashes_says_where() -> None:
    crashing = child.start(SCENES + "touch_nothing")
    _, said = crashing.communicate(timeout=60)
    assert crashing.returncode == -signal.SIGSEGV
    where, around, *maps = said.splitlines()
    assert where.startswith("signal 11 at 0x")
    assert around.startswith("mapped around 0x")
    assert around.endswith("(there):")
    assert any("---p" in line for line in maps)


def test_every_mistake_is_planted_somewhere() -> None:
    assert {mistake for mistake, _ in plants.cases(("anon", "shmem"))} == set(PLANTS[1:])
