"""Which address shows which page, through any series of munmap and mremap."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from userfault.pager.core.segment import Segment
from userfault.pager.core.segments import Segments

SHIFT = 12
PAGE = 1 << SHIFT
START = 64
PAGES = 12


class Naive:
    """One dict entry a page: address, in pages -> page."""

    def __init__(self) -> None:
        self.held = {START + page: page for page in range(PAGES)}

    def unmap(self, start: int, count: int) -> list[int]:
        return [self.held.pop(at) for at in range(start, start + count) if at in self.held]

    def remap(self, old: int, new: int, count: int) -> None:
        moved = {new + at: self.held.pop(old + at) for at in range(count) if old + at in self.held}
        self.unmap(new, count)
        self.held |= moved


def agree(segments: Segments, naive: Naive) -> None:
    shown = {page: at for at, page in naive.held.items()}
    for at in range(130):
        assert segments.page_of(at * PAGE + 5) == naive.held.get(at, -1)
    for page in range(PAGES):
        at = shown.get(page, -1)
        assert segments.address_of(page) == (at * PAGE if page in shown else -1)
        reach = 0
        while page in shown and naive.held.get(at + reach) == page + reach:
            reach += 1
        assert segments.reach(page) <= reach  # adjacent segments need not have been joined
        assert bool(segments.reach(page)) == (page in shown)


place = st.integers(START - 4, START + 40)
length = st.integers(1, 9)
call = st.one_of(
    st.tuples(st.just("unmap"), place, length, place),
    st.tuples(st.just("remap"), place, length, place),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(call, max_size=12))
def test_segments_agree_with_one_entry_a_page(calls: list[tuple[str, int, int, int]]) -> None:
    segments, naive = Segments(START * PAGE, PAGES, SHIFT), Naive()
    for what, start, count, new in calls:
        if what == "unmap":
            runs = segments.unmap(start * PAGE, (start + count) * PAGE)
            gone = [page for first, run in runs for page in range(first, first + run)]
            assert sorted(gone) == sorted(naive.unmap(start, count))
        elif abs(new - start) >= count:  # mremap refuses ranges that overlap
            segments.remap(start * PAGE, new * PAGE, count * PAGE)
            naive.remap(start, new, count)
        agree(segments, naive)


@settings(max_examples=200, deadline=None)
@given(st.lists(call, max_size=12), st.permutations(range(PAGES)))
def test_so_do_many_that_are_not_in_the_order_of_pages(
    calls: list[tuple[str, int, int, int]], order: list[int]
) -> None:
    pieces = [
        Segment((START + at) * PAGE, (START + at + 1) * PAGE, page) for at, page in enumerate(order)
    ]
    segments, naive = Segments.of(pieces, SHIFT), Naive()
    naive.held = {START + at: page for at, page in enumerate(order)}
    for what, start, count, new in calls:
        if what == "unmap":
            segments.unmap(start * PAGE, (start + count) * PAGE)
            naive.unmap(start, count)
        elif abs(new - start) >= count:
            segments.remap(start * PAGE, new * PAGE, count * PAGE)
            naive.remap(start, new, count)
        agree(segments, naive)
        shown = set(naive.held.values())
        left = segments.hidden([(0, 5), (5, PAGES - 5)])
        hidden = [page for first, run in left for page in range(first, first + run)]
        assert hidden == [page for page in range(PAGES) if page not in shown]


def test_a_copy_goes_its_own_way() -> None:
    segments = Segments(START * PAGE, PAGES, SHIFT)
    twin = segments.copy()

    segments.unmap(START * PAGE, (START + PAGES) * PAGE)

    assert len(segments) == 0
    assert twin.page_of(START * PAGE) == 0


def test_pages_in_a_range_come_as_runs() -> None:
    segments = Segments(START * PAGE, PAGES, SHIFT)
    segments.remap((START + 4) * PAGE, (START + 50) * PAGE, 2 * PAGE)

    assert segments.pages_in(0, 1 << 40) == [(0, 4), (6, 6), (4, 2)]
    assert segments.pages_in((START + 3) * PAGE, (START + 7) * PAGE) == [(3, 1), (6, 1)]
    assert segments.pages_in(0, PAGE) == []


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4), st.integers(0, 30)), max_size=5),
    st.integers(0, 12),
    st.integers(1, 8),
)
def test_addresses_and_hidden_pages_are_those_of_each_page(
    moves: list[tuple[int, int, int]], page: int, count: int
) -> None:
    held = Segments(START << SHIFT, 16, SHIFT)
    for first, length, to in moves:
        if to > 20:
            held.unmap((START + first) << SHIFT, (START + first + length) << SHIFT)
        else:
            new = (START + 100 + 10 * to) << SHIFT
            held.remap((START + first) << SHIFT, new, length << SHIFT)
    pages = range(page, page + count)
    shown = {
        address
        for start, end in held.addresses_of(page, count)
        for address in range(start, end, 1 << SHIFT)
    }
    assert shown == {held.address_of(each) for each in pages if each < 16} - {-1}
    hidden = {
        each
        for first, length in held.hidden([(page, count)])
        for each in range(first, first + length)
    }
    assert hidden == {each for each in pages if held.address_of(each) < 0}


def test_of_a_huge_page_that_is_dropped_in_part_nothing_goes() -> None:
    huge = 1 << 21
    segments = Segments.of([Segment(4 * huge, 8 * huge, 2)], 21)
    assert segments.whole_in(4 * huge + 4096, 7 * huge - 4096) == [(3, 1)]
    assert segments.whole_in(4 * huge, 4 * huge + 4096) == []
    assert segments.whole_in(3 * huge, 9 * huge) == [(2, 4)]
