"""What the first restore touches is recorded, and comes ahead of the faults of the next one."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.pages import PAGE, numbers
from helpers.stores import memory, store
from helpers.waiting import wait_until
from pager_live.conftest import PAGES
from pager_live.test_restore import MEMORIES, restored
from userfault import Policy, lazy
from userfault.kernel.errors import UserfaultError
from userfault.pager.core.states import PRESENT
from userfault.snapshot.format.working_set import WorkingSet, decode, encode, recorded
from userfault.snapshot.working_sets.naming import tie_of
from userfault.source.spec import resolve

DEMAND = Policy(background=False)
TOUCHED = sorted(random.Random(4).sample(range(PAGES), 200))


def touch(mapped: Any, pages: list[int]) -> None:
    for page in pages:
        assert numbers(mapped[page * PAGE : (page + 1) * PAGE]) == [page + 1]


def saved(path: Path) -> WorkingSet:
    """The set in a file, once there is one."""
    wait_until(path.exists)
    return decode(path.read_bytes(), str(path))


def made(image: Path, path: Path, pages: list[int] | range, **changes: Any) -> Path:
    """A set of the image, as a recording leaves it."""
    from pyroaring import BitMap

    resolved = resolve(str(image))
    tie = changes.pop("tie", tie_of(resolved.spec))
    resolved.close()
    held = recorded(tie, PAGE, PAGES + 1, [BitMap(pages)])
    path.write_bytes(encode(held))
    return path


@pytest.mark.parametrize("memory", [each for each in MEMORIES if not each.startswith("huge")])
def test_what_the_first_restore_touched_the_next_one_has_ahead_of_its_faults(
    image: Path, tmp_path: Path, memory: str
) -> None:
    path = tmp_path / "a.set"
    with lazy(image, memory=memory, policy=DEMAND, working_set=path) as mapped:
        touch(mapped, TOUCHED)
        assert mapped.statistics().counters.set_filled == 0
    held = saved(path)
    assert set(held.all) <= set(TOUCHED)
    assert len(held.all) > 0.9 * len(TOUCHED)  # the last of a stream may be left out
    with lazy(image, memory=memory, policy=DEMAND, working_set=path) as mapped:
        wait_until(lambda: mapped.page_states[:].count(PRESENT) >= len(held.all) - 12)
        faults = mapped.statistics().counters.faults
        touch(mapped, TOUCHED)
        statistics = mapped.statistics()
        counters = statistics.counters
        assert counters.faults - faults <= len(TOUCHED) - len(held.all) + counters.set_sampled
        assert counters.set_touched == counters.set_sampled == len(held.all) // 16
        assert statistics.set_hit_rate == 1.0
        assert statistics.set_for_nothing == 0
        mapped.complete()
        assert numbers(mapped[: PAGES * PAGE]) == list(range(1, PAGES + 1))


def test_pages_that_are_read_one_by_one_come_each_with_its_own_bytes(
    image: Path, tmp_path: Path
) -> None:
    """Of each block of the file some pages are not in the page cache, but those of the set are."""
    path = made(image, tmp_path / "a.set", TOUCHED)
    with image.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in TOUCHED:
            os.pread(file.fileno(), PAGE, page * PAGE)
    with lazy(image, policy=DEMAND, working_set=path) as mapped:
        wait_until(lambda: mapped.page_states[:].count(PRESENT) >= len(TOUCHED) * 15 // 16)
        touch(mapped, TOUCHED)


@pytest.mark.parametrize("memory", ["hugetlb", "hugetlb-private"])
def test_huge_pages_are_recorded_and_come_as_such(image: Path, tmp_path: Path, memory: str) -> None:
    path = tmp_path / "a.set"
    with restored(image, memory, policy=DEMAND, working_set=path) as mapped:
        touch(mapped, [1, PAGES - 1])
    assert saved(path).page_size == 2 << 20
    with restored(image, memory, policy=DEMAND, working_set=path) as mapped:
        wait_until(lambda: mapped.statistics().counters.set_filled > 0)
        touch(mapped, [1, PAGES - 1])
        assert mapped.statistics().counters.faults == 0


def test_a_snapshot_has_its_set_beside_it(tmp_path: Path) -> None:
    data = memory(600)
    name = store(tmp_path / "store", "one", data)
    pages = [page for page in range(0, 600, 3) if any(data[page * PAGE : (page + 1) * PAGE])]
    for _ in range(2):
        with lazy(name, policy=DEMAND) as mapped:
            filled = 0
            if (tmp_path / "store" / "sets" / "one").exists():
                # Of a chunk that is still to be unpacked the pages come by themselves.
                wait_until(lambda: mapped.statistics().counters.background >= len(pages) * 0.9)
                filled = mapped.statistics().counters.set_filled
            for page in pages:
                assert mapped[page * PAGE : (page + 1) * PAGE] == data[page * PAGE :][:PAGE]
            counters = mapped.statistics().counters
            if filled:
                assert counters.faults < len(pages) / 4
            mapped.complete()
            assert mapped[:] == data
        wait_until((tmp_path / "store" / "sets" / "one").exists)
    assert filled


def test_everything_else_follows_when_the_recording_is_over(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.set"
    with lazy(image, working_set=path) as mapped:
        touch(mapped, [5, 900])
        assert mapped.wait(30)
    assert set(saved(path).all) == {5, 900}


def test_who_asks_for_everything_waits_for_no_recording(image: Path, tmp_path: Path) -> None:
    with lazy(image, policy=Policy(record_s=1e6), working_set=tmp_path / "a.set") as mapped:
        touch(mapped, [5])
        mapped.complete(timeout=30)
    assert set(saved(tmp_path / "a.set").all) == {5}


def test_a_recording_ends_with_its_time(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.set"
    with lazy(image, policy=Policy(background=False, record_s=3), working_set=path) as mapped:
        touch(mapped, [5])
        assert set(saved(path).all) == {5}
        touch(mapped, [700])
    assert set(saved(path).all) == {5}


@pytest.mark.parametrize(
    ("policy", "named"),
    [(Policy(record="never", background=False), True), (DEMAND, False)],
)
def test_nothing_is_recorded_where_nobody_wants_it(
    tmp_path: Path, policy: Policy, named: bool
) -> None:
    data = memory(40)
    name = store(tmp_path / "store", "one", data)
    with lazy(name, policy=policy, working_set=None if named else "") as mapped:
        assert mapped[PAGE * 7] == data[PAGE * 7]
    with lazy(name) as mapped:  # one that is recorded, so that the other would be there by now
        assert mapped[PAGE * 9] == data[PAGE * 9]
    path = tmp_path / "store" / "sets" / "one"
    assert set(saved(path).all) == {9}


def test_always_records_each_restore_and_replays_none(image: Path, tmp_path: Path) -> None:
    path = made(image, tmp_path / "a.set", range(100))
    policy = Policy(background=False, record="always")
    with lazy(image, policy=policy, working_set=path) as mapped:
        touch(mapped, [500])
        assert mapped.statistics().counters.set_filled == 0
    wait_until(lambda: decode(path.read_bytes(), "it").restores == 2)
    held = decode(path.read_bytes(), "it")
    assert set(held.all) == {*range(100), 500}
    assert set(held.missed[0]) == set(range(100))


def test_a_set_that_is_of_little_use_has_the_next_restore_recorded(
    image: Path, tmp_path: Path
) -> None:
    path = made(image, tmp_path / "a.set", range(PAGES))
    with lazy(image, policy=DEMAND, working_set=path) as mapped:
        wait_until(lambda: mapped.statistics().counters.set_filled > 0)
        threading.Event().wait(1.1)  # what a restore of a moment shows does not count
    wait_until(lambda: decode(path.read_bytes(), "it").stale)


# --- how it breaks -------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(4000))


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_a_larger_image(path: Path) -> None:
    from pyroaring import BitMap

    held = decode(path.read_bytes(), "it")
    path.write_bytes(encode(recorded(held.tie, PAGE, 1 << 30, [BitMap([3, 1 << 29])])))


@pytest.mark.parametrize("spoil", [garbage, torn, empty, of_a_larger_image])
def test_a_set_that_is_none_makes_no_byte_wrong(
    image: Path, tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(image, tmp_path / "a.set", range(40))
    spoil(path)
    with (
        caplog.at_level(logging.WARNING),
        lazy(image, policy=Policy(record="never"), working_set=path) as mapped,
    ):
        mapped.complete()
        assert numbers(mapped[: PAGES * PAGE]) == list(range(1, PAGES + 1))
    assert spoil is of_a_larger_image or "is ignored" in caplog.text


def test_a_set_of_another_image_is_ignored(
    image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(image, tmp_path / "a.set", range(40), tie=bytes(32))
    policy = Policy(background=False, record="never")
    with (
        caplog.at_level(logging.WARNING),
        lazy(image, policy=policy, working_set=path) as mapped,
    ):
        touch(mapped, [3])
        assert mapped.statistics().counters.set_filled == 0
    assert "of another image" in caplog.text


def test_a_worker_that_is_killed_loses_nothing_that_it_had_noted(
    image: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.set"
    with lazy(image, policy=DEMAND, working_set=path) as mapped:
        touch(mapped, [5, 900])
        before = mapped.statistics()
        os.kill(before.pager_pid, signal.SIGKILL)
        wait_until(lambda: mapped.statistics().takeovers > before.takeovers)
        touch(mapped, [300])
    assert set(saved(path).all) == {5, 300, 900}


@pytest.mark.parametrize("memory", ["anon", "shmem"])
def test_a_worker_that_is_killed_during_a_replay_leaves_every_byte_right(
    image: Path, tmp_path: Path, memory: str
) -> None:
    every_third = list(range(0, PAGES, 3))
    path = made(image, tmp_path / "a.set", every_third)
    for least in (0, 40, 80):
        with lazy(image, memory=memory, policy=DEMAND, working_set=path) as mapped:
            while mapped.page_states[:].count(PRESENT) < least:
                pass
            os.kill(mapped.statistics().pager_pid, signal.SIGKILL)
            touch(mapped, every_third)
            wait_until(lambda: mapped.statistics().takeovers >= 1)
            mapped.complete()
            assert numbers(mapped[: PAGES * PAGE]) == list(range(1, PAGES + 1))


def test_a_client_may_drop_what_comes_ahead(image: Path, tmp_path: Path) -> None:
    """Dropped pages read zero, whether the course had come to them or not."""
    import mmap as module

    path = made(image, tmp_path / "a.set", range(PAGES))
    with lazy(image, writable=True, policy=DEMAND, working_set=path) as mapped:
        dropped = range(100, PAGES, 97)
        for page in dropped:
            mapped.madvise(module.MADV_DONTNEED, page * PAGE, PAGE)
        for page in dropped:
            assert mapped[page * PAGE : (page + 1) * PAGE] == bytes(PAGE)
        touch(mapped, [page for page in range(0, PAGES, 5) if page not in dropped])


def test_a_client_that_ends_during_a_replay_leaves_a_pager_that_serves_on(
    image: Path, tmp_path: Path
) -> None:
    import userfault

    path = made(image, tmp_path / "a.set", range(PAGES))
    with userfault.Pager() as pager:
        for _ in range(5):
            with lazy(image, policy=DEMAND, working_set=path, pager=pager) as mapped:
                touch(mapped, [PAGES - 1])
        with lazy(image, policy=DEMAND, pager=pager) as mapped:
            touch(mapped, [1, 2, 3])
            assert mapped.statistics().takeovers == 0


def test_a_policy_that_cannot_be_is_an_error() -> None:
    with pytest.raises(UserfaultError, match="record"):
        Policy(record="sometimes")
    with pytest.raises(UserfaultError, match="record_s"):
        Policy(record_s=0)
