"""Sources that are known in advance: zeros are never read, and what comes together is filled so."""

from __future__ import annotations

import pytest

from pager_core.programs import THEMES, failure, minimal, random_case
from pager_core.simlayout import SimLayout
from userfault.pager.core.actions import COPY, ZERO, Fetch, Fill
from userfault.pager.core.advance import Advance
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import FILLING, MISSING, PRESENT, Pages

PAGE = 4096
START = 1 << 20
SEEDED = 400  # programs a theme

# Pages 0 1 | zeros 2 3 | 4 5 6 | 7 | zeros 8 9 | 10 11: the stretches of two chunks, in turn.
LAYOUT = SimLayout(12)


def core_of(*, background: bool = False, window: int = 1, chunk: int = 64) -> MappingCore:
    policy = Policy(
        background=background,
        window_bytes=window * PAGE,
        chunk_bytes=chunk * PAGE,
        fault_deadline_s=None,
    )
    return MappingCore(Plan(START, PAGE, policy, layout=LAYOUT), Pages(bytearray(12), 12))


def fills(core: MappingCore, *, ready: bool = True) -> list[tuple[int, int, int]]:
    """What the core asks for, as (kind, page, count); it is done, or else its source not ready."""
    found = []
    while core.out:
        action = core.out.popleft()
        if isinstance(action, Fill):
            found.append((action.kind, action.page, action.count))
            if ready or action.kind == ZERO:
                core.done(action)
            else:
                core.not_ready(action)
        elif isinstance(action, Fetch):
            found.append((-1, action.page, action.count))
    return found


def fault(core: MappingCore, page: int) -> None:
    core.batch()
    core.fault(START + page * PAGE, 0)


def test_a_touch_of_a_zero_page_is_zeros_without_a_read() -> None:
    core = core_of(window=8)
    fault(core, 3)
    assert fills(core) == [(ZERO, 3, 1)]


def test_a_touch_brings_the_stretch_around_it_as_far_as_a_window_goes() -> None:
    core = core_of(window=8)
    fault(core, 5)
    assert fills(core) == [(COPY, 4, 3)]
    core = core_of(window=1)
    fault(core, 5)
    assert fills(core) == [(COPY, 5, 1)]


def test_what_is_settled_in_a_stretch_is_left_alone() -> None:
    core = core_of(window=8)
    core.remove(START + 4 * PAGE, START + 5 * PAGE)
    fills(core)
    fault(core, 6)
    assert fills(core) == [(COPY, 5, 2)]


def test_the_rest_of_a_stream_is_read_in_advance_and_not_in_the_fault() -> None:
    core = core_of(window=8)
    for page in (0, 2, 4):  # its window has grown to four pages
        fault(core, page)
        fills(core)
        while core.idle_work():
            fills(core)
    assert core.pages.states[7] == PRESENT
    assert core.counters.background > 0
    assert core.counters.faults == 3


def test_background_follows_the_turns_and_then_brings_zeros() -> None:
    core = core_of(background=True)
    found = []
    while core.idle_work():
        found += fills(core)
    assert found == [
        (COPY, 0, 2),
        (COPY, 7, 1),
        (COPY, 4, 3),
        (COPY, 10, 2),
        (ZERO, 2, 2),
        (ZERO, 8, 2),
    ]
    assert core.finished


def test_while_a_read_in_advance_is_under_way_only_zeros_are_filled() -> None:
    core = core_of(background=True)
    assert core.idle_work()
    assert fills(core, ready=False) == [(COPY, 0, 2), (-1, 0, 2)]
    found = []
    while core.idle_work():
        found += fills(core, ready=False)
    assert found == [(ZERO, 2, 2), (ZERO, 8, 2)]
    assert core.pages.counts()["filling"] == 2


def test_after_a_fault_the_rest_of_its_chunk_goes_first() -> None:
    core = core_of(background=True, window=8)
    fault(core, 10)
    assert fills(core) == [(COPY, 10, 2)]
    assert core.idle_work()
    assert fills(core) == [(COPY, 4, 3)]


def test_pages_whose_read_failed_come_again_one_by_one() -> None:
    core = core_of(background=True)
    assert core.idle_work()
    fill = core.out.popleft()
    assert isinstance(fill, Fill)
    core.not_ready(fill)
    fetch = core.out.popleft()
    assert isinstance(fetch, Fetch)
    core.fetch_failed(fetch, "it failed", 0.0)
    fills(core)
    found = []
    while core.idle_work():
        found += fills(core)
    assert (COPY, 0, 1) in found
    assert (COPY, 1, 1) in found
    assert core.finished


def test_reads_that_threads_wait_for_come_on_top_of_the_others() -> None:
    pages = Pages(bytearray(60), 60)
    policy = Policy(background=False, window_bytes=PAGE, fault_deadline_s=None)
    core = MappingCore(Plan(START, PAGE, policy, layout=SimLayout(60)), pages)
    reads = 0
    for page in range(0, 60, 4):  # a place for each, whatever `fetches` says
        fault(core, page)
        reads += sum(kind == -1 for kind, _, _ in fills(core, ready=False))
    assert reads > policy.fetches
    assert not any(core.reads.queued(page) for page in range(60))


def test_passing_by_what_is_filled_is_cut_into_steps() -> None:
    pages = Pages(bytearray([PRESENT]) * 9000, 9000)
    advance = Advance(SimLayout(9000), pages)
    steps = 0
    while advance.bytes() is None and advance.more:
        steps += 1
    assert steps > 1
    assert advance.bytes() is None
    assert not advance.more


def test_prefetch_is_cut_where_pages_are_not_filled_alike() -> None:
    core = core_of()
    core.want(0, 12)
    found = []
    while core.idle_work():
        found += fills(core)
    assert [kind for kind, _, _ in found] == [COPY, ZERO, COPY, COPY, ZERO, COPY]
    assert core.pages.find(MISSING) == core.pages.find(FILLING) == -1


@pytest.mark.parametrize("theme", THEMES)
def test_no_wrong_byte_and_no_thread_lost_where_the_source_is_known(theme: str) -> None:
    for seed in range(SEEDED):
        config, program = random_case(seed, theme)
        if config.prepared:
            continue
        config = config._replace(origin="known")
        wrong = failure(config, program)
        if wrong:
            steps = "\n".join(f"    {tuple(step)}," for step in minimal(config, program))
            pytest.fail(f"{wrong}\nwith {config}\nin\n{steps}", pytrace=False)
