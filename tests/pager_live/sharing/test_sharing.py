"""Restores of one snapshot share the pages that none of them has written, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.keepers import copies, ended, keeper, of_mapping
from helpers.pages import PAGE
from helpers.stores import chunk_files
from helpers.waiting import wait_until
from userfault import Policy, lazy
from userfault.linux import libc
from userfault.pager.core.states import REMOVED
from userfault.uapi import mman

SCENES = "pager_live.sharing.sharing_scenes:"
SHARED = Policy(share="on")
DEMAND = Policy(share="on", background=False)


def _bytes_pages(image: bytes) -> int:
    """Pages that are not zeros: those alone are in the copy."""
    return sum(any(image[at : at + PAGE]) for at in range(0, len(image), PAGE))


def _same(mapped: userfault.LazyMemory, image: bytes) -> bool:
    return mapped[:] == image


def test_what_is_not_written_is_there_once(packed: Path, image: bytes) -> None:
    with contextlib.ExitStack() as clones:
        made = [clones.enter_context(lazy(packed, policy=SHARED)) for _ in range(4)]
        for clone in made:
            clone.complete()
            assert clone.memory.name == "shmem-private"
            assert _same(clone, image)
        told = [of_mapping(clone.address) for clone in made]
        once = _bytes_pages(image) * PAGE
        assert [each["Rss"] for each in told] == [once] * 4
        assert sum(each["Pss"] for each in told) <= once + 4 * 4096  # smaps rounds to a KiB
        assert [each["Anonymous"] for each in told] == [0] * 4
        assert sum(clone.statistics().counters.published for clone in made) == _bytes_pages(image)


def test_a_clone_costs_what_it_writes(packed: Path, image: bytes) -> None:
    with (
        lazy(packed, policy=SHARED, writable=True) as first,
        lazy(packed, policy=SHARED, writable=True) as second,
    ):
        written = range(0, 300, 3)
        for page in written:  # some before they are in, the others after
            first[page * PAGE] = 0xA5
            if page == 150:
                first.complete()
                second.complete()
        for page in range(310):
            found, expected = first[page * PAGE : (page + 1) * PAGE], image[page * PAGE :][:PAGE]
            assert found == (b"\xa5" + expected[1:] if page in written else expected)
        assert _same(second, image)
        assert of_mapping(first.address)["Anonymous"] == len(written) * PAGE
        assert of_mapping(second.address)["Anonymous"] == 0
        with lazy(packed, policy=SHARED) as third:
            third.complete()
            assert _same(third, image)


def test_what_is_in_the_copy_is_read_from_no_store(packed: Path, image: bytes) -> None:
    with lazy(packed, policy=SHARED) as first:
        first.complete()
        for chunk in chunk_files(packed.parent, "one"):
            chunk.unlink()
        with lazy(packed, policy=SHARED) as second:
            second.complete()
            assert _same(second, image)
            counters = second.statistics().counters
            assert (counters.fetches, counters.copied, counters.published) == (0, 0, 0)


@pytest.mark.parametrize("complete", [True, False])
def test_a_dropped_page_reads_zero_as_often_as_it_is_dropped(
    packed: Path, image: bytes, complete: bool
) -> None:
    with (
        lazy(packed, policy=DEMAND, writable=True) as mapped,
        lazy(packed, policy=DEMAND) as other,
    ):
        if complete:
            mapped.complete()
        for page in (3, 9, 200):  # one that was read, one that was written, one never touched
            assert complete or mapped.page_states[page] in (0, 2)
            if page == 3:
                assert mapped[page * PAGE : (page + 1) * PAGE] == image[page * PAGE :][:PAGE]
            if page == 9:
                mapped[page * PAGE] = 7
            for again in range(3):
                libc.madvise(mapped.address + page * PAGE, PAGE, mman.MADV_DONTNEED)
                assert not any(mapped[page * PAGE : (page + 1) * PAGE])
                assert mapped.page_states[page] == REMOVED
                if again == 1:  # what was written to it since goes as well
                    mapped[page * PAGE] = 1
        other.complete()
        assert _same(other, image)


def test_a_view_goes_on_reading_zero_where_the_page_was_dropped(packed: Path, image: bytes) -> None:
    mapped = lazy(packed, policy=SHARED)
    view = memoryview(mapped)
    mapped.complete()
    libc.madvise(mapped.address + 4 * PAGE, 2 * PAGE, mman.MADV_DONTNEED)
    mapped.close()
    assert not any(view[4 * PAGE : 6 * PAGE])
    assert view[6 * PAGE :] == image[6 * PAGE :]
    view.release()


def test_restores_at_the_same_time_are_all_right(packed: Path, tmp_path: Path) -> None:
    expected = tmp_path / "store-one.expected"
    with lazy(packed, policy=Policy(share="off")) as plain:
        expected.write_bytes(plain[:])
    started = [
        child.start(SCENES + "restored", str(packed), str(expected), seed) for seed in range(4)
    ]
    results = [child.finish(each) for each in started]
    assert [each["right"] for each in results] == [True] * 4
    assert len({each["keeper"] for each in results}) == 1


def test_workers_that_are_killed_leave_a_copy_that_is_right(packed: Path, tmp_path: Path) -> None:
    expected = tmp_path / "store-one.expected"
    with lazy(packed, policy=Policy(share="off")) as plain:
        expected.write_bytes(plain[:])
    started = [
        child.start(SCENES + "killed", str(packed), str(expected), seed) for seed in range(2)
    ]
    for each in started:
        result = child.finish(each, 120)
        assert result["right"]
        assert result["kills"] > 0


def test_a_family_that_is_replaced_keeps_the_copy(packed: Path, image: bytes) -> None:
    with userfault.Pager() as pager, lazy(packed, policy=DEMAND, pager=pager) as mapped:
        assert mapped[0:PAGE] == image[0:PAGE]
        pager.replace()
        mapped.complete()
        assert _same(mapped, image)
        assert mapped.statistics().counters.copied == 0
        with lazy(packed, policy=SHARED) as other:
            other.complete()
            assert _same(other, image)
            assert other.statistics().counters.published == 0


def test_a_keeper_that_is_killed_costs_sharing_and_nothing_else(packed: Path, image: bytes) -> None:
    with lazy(packed, policy=DEMAND) as mapped:
        half = len(image) // 2 // PAGE * PAGE
        assert mapped[:half] == image[:half]
        pid = keeper()
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        mapped.complete()
        assert _same(mapped, image)
        counters = mapped.statistics().counters
        assert counters.copied > 0
        assert counters.published > 0
        with lazy(packed, policy=SHARED) as other:
            assert keeper() != pid
            other.complete()
            assert _same(other, image)
            assert other.statistics().counters.published == _bytes_pages(image)


def test_a_keeper_that_is_stopped_is_told_and_holds_nobody_up(packed: Path, image: bytes) -> None:
    with lazy(packed, policy=DEMAND) as mapped:
        pid = keeper()
        os.kill(pid, signal.SIGSTOP)
        try:
            mapped.complete()  # who fills needs nothing of it
            assert _same(mapped, image)
            assert mapped.statistics().counters.copied == 0
            with pytest.raises(userfault.Unavailable, match="it may be stopped"):
                lazy(packed, policy=SHARED)
            with lazy(packed) as unshared:
                assert unshared.memory.name != "shmem-private"
                unshared.complete()
                assert _same(unshared, image)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_copy_goes_with_its_last_user(packed: Path) -> None:
    with lazy(packed, policy=SHARED) as first:
        pid = keeper()
        with lazy(packed, policy=SHARED):
            assert copies(pid) == 1
        first.complete()
        assert copies(pid) == 1
    wait_until(lambda: copies(pid) == 0)


def test_a_copy_is_kept_for_as_long_as_was_asked(packed: Path, image: bytes) -> None:
    with lazy(packed, policy=Policy(share="on", share_keep_s=600)) as first:
        pid = keeper()
        first.complete()
    assert copies(pid) == 1
    for chunk in chunk_files(packed.parent, "one"):
        chunk.unlink()
    with lazy(packed) as second:  # joins by itself what is there
        second.complete()
        assert _same(second, image)
    os.kill(pid, signal.SIGTERM)
    ended(pid)


def test_a_user_that_is_killed_claims_nothing(packed: Path) -> None:
    with lazy(packed, policy=SHARED):
        pid = keeper()
    wait_until(lambda: copies(pid) == 0)
    child.run(SCENES + "killed_with_its_pager", str(packed))
    wait_until(lambda: copies(pid) == 0)


def test_parts_and_images_that_differ_share_nothing(packed: Path, image: bytes) -> None:
    with (
        lazy(packed, policy=SHARED) as whole,
        lazy(packed, policy=SHARED, length=len(image) - 3) as shorter,
        lazy(packed, policy=SHARED, offset=PAGE) as later,
    ):
        for mapped, expected in ((whole, image), (shorter, image[:-3]), (later, image[PAGE:])):
            mapped.complete()
            assert _same(mapped, expected)
        assert copies(keeper()) == 3


def test_without_a_word_nothing_is_begun(packed: Path, runtime: Path) -> None:
    with lazy(packed) as mapped:
        assert mapped.memory.name != "shmem-private"
    assert not runtime.exists()


def test_what_was_named_otherwise_is_not_shared(packed: Path) -> None:
    with lazy(packed, policy=SHARED):
        for kind in ("anon", "shmem"):
            with lazy(packed, memory=kind) as mapped:
                assert mapped.memory.name == kind
        with lazy(packed, policy=Policy(share="off")) as mapped:
            assert mapped.memory.name != "shmem-private"
        with lazy(packed, policy=Policy(resident_bytes=64 << 20)) as mapped:
            assert mapped.memory.name != "shmem-private"


def test_what_cannot_be_shared_is_told(packed: Path) -> None:
    with pytest.raises(userfault.UsageError, match="anon memory with policy share"):
        lazy(packed, memory="anon", policy=SHARED)
    with pytest.raises(userfault.UsageError, match="track=True with policy share"):
        lazy(packed, track=True, policy=SHARED)
    with pytest.raises(userfault.UsageError, match="a residency budget with policy share"):
        lazy(packed, policy=Policy(share="on", resident_bytes=1 << 20))
    with pytest.raises(userfault.UsageError, match="no snapshot in a store"):
        lazy(bytes(PAGE), policy=SHARED)
    with pytest.raises(userfault.UsageError, match="share"):
        Policy(share="perhaps")
    with pytest.raises(userfault.UsageError, match="share_keep_s"):
        Policy(share_keep_s=-1)


def test_forked_children_have_the_copy_and_their_own_writes(packed: Path) -> None:
    result = child.run(SCENES + "forked", str(packed))
    assert result == {"child": 0, "parent": True}


def test_memory_that_is_moved_or_locked_shows_the_image(packed: Path) -> None:
    assert child.run(SCENES + "moved_and_locked", str(packed)) == {"moved": True, "locked": True}
