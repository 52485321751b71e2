"""Whatever is present already, a loop that goes on at `.resume` fills the rest, nothing else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.pages import PAGE, numbers, pages
from helpers.world import World
from userfault.kernel.errors import PageExists, TryAgain
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

COUNT = 16
MARK = 1000  # pages that were there first hold their number plus this


def fill_with_resume(uffd: LiveUserfaultfd, start: int, data: bytes) -> list[int]:
    """Fill the range past every page that is there; returns the pages that were in the way."""
    at, end, met = start, start + len(data), []
    while at < end:
        try:
            at += uffd.copy(at, memoryview(data)[at - start :], end - at)
        except TryAgain as stopped:
            if not stopped.done:  # without events there is nothing else to wait for
                raise
            at = stopped.resume
        except PageExists as exists:
            met.append((exists.resume - start) // PAGE)
            at = exists.resume + PAGE
    return met


@pytest.mark.parametrize("name", ["anon", "shmem", "shmem-private"])
def test_a_loop_that_resumes_fills_every_page_once(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, COUNT)
    task = world.task()

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.sets(st.integers(0, COUNT - 1)))
    def check(present: set[int]) -> None:
        libc.madvise(mapping.address, mapping.length, mman.MADV_DONTNEED)
        if mapping.backing:
            mapping.backing.punch_hole(0, mapping.length)
        for number in present:
            uffd.copy(mapping.address + number * PAGE, pages(MARK + number, 1), PAGE)
        before = [entry.present for entry in world.pagemap.entries(mapping.address, COUNT)]
        assert before == [number in present for number in range(COUNT)]

        met = fill_with_resume(uffd, mapping.address, pages(0, COUNT))

        assert met == sorted(present)
        assert all(entry.present for entry in world.pagemap.entries(mapping.address, COUNT))
        found = numbers(task.read(mapping.address, mapping.length).result().data)
        assert found == [number + MARK * (number in present) for number in range(COUNT)]

    check()


def test_zeropage_and_poison_resume_in_the_same_way(world: World) -> None:
    for fill in (LiveUserfaultfd.zeropage, LiveUserfaultfd.poison):
        mapping, uffd = world.registered("anon", 4)
        uffd.copy(mapping.address + 2 * PAGE, pages(2, 1), PAGE)

        with pytest.raises(TryAgain) as half:
            fill(uffd, mapping.address, 4 * PAGE)
        assert half.value.resume == mapping.address + 2 * PAGE
        with pytest.raises(PageExists):
            fill(uffd, half.value.resume, 2 * PAGE)
        assert fill(uffd, half.value.resume + PAGE, PAGE) == PAGE
