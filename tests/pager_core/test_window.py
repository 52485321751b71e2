"""The fill-around window: growth on order, one page on randomness."""

from __future__ import annotations

import random

import pytest

from pager_core.simjudge import calm
from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import Fill
from userfault.pager.core.states import PRESENT
from userfault.pager.core.window import STREAMS, Window


def upwards(window: Window, page: int, faults: int) -> tuple[list[int], int]:
    """The windows of so many faults of a stream, and where it goes on."""
    sizes = []
    for _ in range(faults):
        size = window.at(page)
        assert size > 0
        sizes.append(size)
        page += size
        window.ended(page - 1, size)
    return sizes, page


def downwards(window: Window, page: int, faults: int) -> list[int]:
    sizes = []
    for _ in range(faults):
        size = abs(window.at(page))
        sizes.append(size)
        window.ended(page - size + 1, -size if size > 1 else 1)
        page -= size
    return sizes


def test_a_stream_upwards_doubles_its_window_to_the_limit() -> None:
    assert upwards(Window(16), 100, 7)[0] == [1, 2, 4, 8, 16, 16, 16]


def test_a_stream_downwards_doubles_its_window_to_the_limit() -> None:
    assert downwards(Window(16), 100, 7) == [1, 2, 4, 8, 16, 16, 16]


def test_a_fault_elsewhere_starts_at_one_page_again() -> None:
    window = Window(64)
    upwards(window, 100, 5)

    assert window.at(5000) == 1


def test_random_faults_fill_one_page_each() -> None:
    window, dice = Window(64), random.Random(1)
    pages = dice.sample(range(0, 10_000_000, 16), 500)

    sizes = []
    for page in pages:
        sizes.append(window.at(page))
        window.ended(page, sizes[-1])

    assert sizes == [1] * 500


def test_streams_of_several_threads_grow_side_by_side() -> None:
    window = Window(8)
    pages = [1000, 2000, 3000, 4000]
    sizes = []
    for _ in range(4):
        for thread, page in enumerate(pages):
            (size,), pages[thread] = upwards(window, page, 1)
            sizes.append(size)

    assert sizes == [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4


def test_a_stream_up_and_one_down_grow_from_the_same_place() -> None:
    window = Window(32)
    assert window.at(500) == 1
    window.ended(500, 1)
    window.ended(700, 1)

    assert window.at(501) == 2
    assert window.at(699) == -2


def test_the_oldest_stream_is_forgotten_first() -> None:
    window = Window(8)
    for stream in range(STREAMS + 1):
        window.ended(1000 * stream, 4)

    assert window.at(1) == 1
    assert window.at(1001) == 8


def test_where_streams_went_on_of_late_a_new_one_starts_larger() -> None:
    window = Window(64)
    for run in range(40):
        upwards(window, 1000 * run, 4)

    assert upwards(window, 500_000, 3)[0] == [4, 8, 16]


def test_after_random_faults_a_new_stream_starts_with_one_page_again() -> None:
    window, dice = Window(64), random.Random(1)
    for run in range(40):
        upwards(window, 1000 * run, 4)
    for page in dice.sample(range(1_000_000, 10_000_000, 16), 40):
        window.ended(page, window.at(page))

    assert window.at(500_000) == 1


def test_a_copy_that_runs_backwards_grows_its_window_also_after_streams_upwards() -> None:
    window = Window(64)
    for run in range(40):
        upwards(window, 1000 * run, 4)

    page, filled = 500_000, set[int]()
    for _ in range(60):
        size = window.at(page)
        held = range(page, page + size) if size > 0 else range(page + size + 1, page + 1)
        filled.update(held)
        window.ended(held[-1] if size > 0 else held[0], size)
        page = min(filled) - 1
    assert size == -64


@pytest.mark.parametrize("limit", [0, 1])
def test_a_window_of_one_page_never_grows(limit: int) -> None:
    assert upwards(Window(limit), 0, 4)[0] == [1, 1, 1, 1]


# --- in the core ---------------------------------------------------------------------------------


def faulted(world: World, page: int) -> tuple[int, int]:
    """A thread touches `page`: which run of pages is filled for it."""
    kernel, core = world.kernel, world.contexts[0].core
    thread = kernel.mms[0].threads[0]
    kernel.touch(thread, kernel.start + page)
    if thread.state == "idle":
        return page, 0
    world.step()
    world.step()
    fill = core.out[0]
    assert isinstance(fill, Fill)
    calm(world)
    assert thread.state == "idle"
    return fill.page, fill.count


def test_threads_that_read_in_order_find_pages_filled_before_they_come() -> None:
    world = World(Config(pages=64, background=False, window=8, around="order"))

    runs = [faulted(world, page) for page in range(64)]

    assert [run for run in runs if run[1]] == [
        (0, 1), (1, 2), (3, 4), (7, 8), (15, 8), (23, 8), (31, 8), (39, 8), (47, 8), (55, 8),
        (63, 1),
    ]  # fmt: skip
    assert world.contexts[0].core.counters.around == 64 - 11


def test_a_copy_that_runs_backwards_is_followed_downwards() -> None:
    world = World(Config(pages=32, background=False, window=8, around="order"))

    runs = [faulted(world, page) for page in reversed(range(32))]

    assert [run for run in runs if run[1]] == [
        (31, 1), (29, 2), (25, 4), (17, 8), (9, 8), (1, 8), (0, 1),
    ]  # fmt: skip


def test_a_window_ends_where_a_page_is_filled_already() -> None:
    world = World(Config(pages=32, background=False, window=16, around="order"))
    faulted(world, 5)
    for page in (0, 1):
        faulted(world, page)

    assert faulted(world, 3) == (3, 2)  # a window of 4 would reach over page 5
    assert world.contexts[0].core.pages.runs(0, 32, PRESENT) == [(0, 6)]


def test_a_stream_goes_on_behind_pages_that_are_filled() -> None:
    world = World(Config(pages=32, background=False, window=16, around="order"))
    faulted(world, 3)
    assert faulted(world, 0) == (0, 1)
    assert faulted(world, 1) == (1, 2)

    assert faulted(world, 4) == (4, 4)  # page 3 raised no fault, and did not end the stream


def test_the_window_is_given_in_bytes() -> None:
    world = World(Config(pages=8, window=4))
    assert world.contexts[0].core.plan.window_pages == 4
    assert world.contexts[0].core.plan.chunk_pages == 3
    assert world.contexts[0].core.plan.policy.window_bytes == 4 * PAGE
