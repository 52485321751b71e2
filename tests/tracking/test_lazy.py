"""Memory that a pager still fills: tracked, and stored without being filled."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from pathlib import Path

import pytest

import userfault
from helpers.skips import need_features
from tracking.memories import MIB, PAGE
from tracking.test_snapshot import restored, writing
from userfault import Policy, Snapshot, lazy, track
from userfault.kernel.errors import SourceError, UsageError
from userfault.kernel.modes import Feature
from userfault.pager.core.states import MISSING
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

DEMAND = Policy(background=False)
KINDS = ["anon", "shmem", "shmem-private"]


@pytest.fixture(autouse=True)
def kernel() -> None:
    need_features(Feature.WP_ASYNC)


@pytest.fixture
def packed(tmp_path: Path, store: Path) -> Path:
    """A snapshot of 4 MiB of which nothing is zero."""
    (tmp_path / "image").write_bytes(random.Random(1).randbytes(4 * MIB))
    pages = FileInput(tmp_path / "image")
    pack(open_objects(store), "base", pages)
    pages.close()
    return store / "base"


def missing(memory: userfault.LazyMemory) -> int:
    """Pages that nobody has filled."""
    return memory.page_states[:].count(MISSING)


@pytest.mark.parametrize("kind", KINDS)
def test_writes_are_told_while_the_memory_is_filled_and_after(kind: str) -> None:
    source = b"\7" * MIB
    with lazy(source, memory=kind, writable=True, track=True, policy=DEMAND) as memory:
        memory[9 * PAGE] = 1
        with track(memory) as tracker:
            assert tracker.mode == "async"
            assert not tracker.written()
            memory[3 * PAGE] = memory[9 * PAGE] = 2
            assert {3, 9} <= set(tracker.written())
            there = memory[20 * PAGE]  # filled, and not written: may be told
            assert there == 7
            tracker.written()
            memory[20 * PAGE] = 5
            assert list(tracker.written()) == [20]
            assert not tracker.written()
            memory.complete()
            assert len(tracker.written()) == MIB // PAGE  # the pager has let go of it
            memory[PAGE] = 1
            assert list(tracker.written()) == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_write_is_lost_while_a_pager_fills_all_of_it(kind: str) -> None:
    source = random.Random(1).randbytes(8 * MIB)
    told = set[int]()
    with lazy(source, memory=kind, writable=True, track=True) as memory:
        start = memory.address
        chosen = random.Random(2)

        def write(_: int) -> None:
            ctypes.memset(start + chosen.randrange(2048) * PAGE + 8, chosen.randrange(256), 8)

        with track(memory) as tracker:
            with writing(write):
                while not memory.wait(0):
                    told |= set(tracker.written())
                for _ in range(3):
                    told |= set(tracker.written())
            told |= set(tracker.written())
        changed = {
            page
            for page in range(2048)
            if memory[page * PAGE : (page + 1) * PAGE] != source[page * PAGE : (page + 1) * PAGE]
        }
        assert changed <= told


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_lazy_memory_fills_none_of_it(kind: str, packed: Path) -> None:
    with lazy(packed, memory=kind, writable=True, track=True, policy=DEMAND) as memory:
        memory[5 * PAGE] ^= 1
        memory[600 * PAGE] ^= 1
        before = missing(memory)
        assert before > 500
        with Snapshot(packed.parent / "next", memory) as snapshot:
            first = snapshot.update()
            assert (first.base, first.stored) == ("base", 2)
            memory[601 * PAGE] ^= 1
            second = snapshot.update()
            assert (second.base, second.stored) == ("next", 1)
            assert missing(memory) > before - 20  # what page 601 brought with it
            memory.complete()
            memory[602 * PAGE] ^= 1
            third = snapshot.update()
            assert (third.base, third.stored) == ("next-1", 1)
            assert restored(packed.parent, third.name) == memory[:]
        wanted = bytearray(restored(packed.parent, "base"))
        wanted[5 * PAGE] ^= 1
        wanted[600 * PAGE] ^= 1
        assert restored(packed.parent, "next") == wanted
        wanted[601 * PAGE] ^= 1
        assert restored(packed.parent, "next-1") == wanted


def test_layers_while_the_pager_fills_in_the_background_are_right(packed: Path) -> None:
    """The pager lets go of the memory in the middle of one of them."""
    chosen = random.Random(4)
    with lazy(packed, writable=True, track=True) as memory:
        with Snapshot(packed.parent / "n", memory) as snapshot:
            for _ in range(4):
                at = chosen.randrange(len(memory))
                memory[at] ^= 0xFF
                wanted = snapshot.update().name
                there = restored(packed.parent, wanted)
                assert there[at] == memory[at]
        memory.complete()
        assert there == memory[:]


def test_its_own_name_is_given_a_number(packed: Path) -> None:
    with lazy(packed, writable=True, track=True, policy=DEMAND) as memory:
        memory[0] ^= 1
        with Snapshot(packed, memory) as snapshot:
            assert snapshot.update().name == "base-1"


def test_what_is_missing_and_in_no_base_is_refused(packed: Path, store: Path) -> None:
    with lazy(b"x" * MIB, writable=True, track=True, policy=DEMAND) as memory:
        with Snapshot(store / "other", memory) as snapshot:
            with pytest.raises(SourceError, match="not complete: 256 pages are missing"):
                snapshot.update()
            memory.complete()
            snapshot.update()
        assert restored(store, "other") == memory[:]
    with (
        lazy(packed, track=True, policy=DEMAND) as memory,
        Snapshot(f"{store}2/other", memory) as snapshot,
        pytest.raises(SourceError, match="in the same store"),
    ):
        snapshot.update()


def test_memory_that_is_a_file_of_others_already_is_refused_until_it_is_complete(
    store: Path,
) -> None:
    """Its pages are in the file, and not in our page tables."""
    fd = os.memfd_create("prepared")
    os.write(fd, b"\1" * MIB)
    with lazy(
        fd, memory="shmem", prepared=True, writable=True, track=True, policy=DEMAND
    ) as memory:
        os.close(fd)
        memory[3 * PAGE] = 2
        with Snapshot(store / "one", memory) as snapshot:
            with pytest.raises(SourceError, match="not complete"):
                snapshot.update()
            memory.complete()
            snapshot.update()
        assert restored(store, "one") == memory[:]


def test_beside_a_shared_copy_tracked_memory_is_stored_by_itself(packed: Path) -> None:
    with (
        lazy(packed, policy=Policy(background=False, share="on"), writable=True) as other,
        lazy(packed, policy=Policy(background=False), writable=True, track=True) as memory,
        Snapshot(packed.parent / "mine", memory) as snapshot,
    ):
        other[7 * PAGE] ^= 1
        assert other[9 * PAGE] == memory[9 * PAGE]
        memory[5 * PAGE] ^= 1
        made = snapshot.update()
        assert (made.base, made.stored) == ("base", 1)
        memory.complete()
        assert restored(packed.parent, "mine") == memory[:]


def test_a_budget_and_tracking_exclude_each_other() -> None:
    policy = Policy(resident_bytes=64 * MIB)
    with pytest.raises(UsageError, match="track=True"):
        lazy(b"x" * 80 * MIB, memory="shmem", track=True, policy=policy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_page_that_is_zeros_can_be_written_when_it_is_tracked(
    tmp_path: Path, store: Path, kind: str
) -> None:
    """ZEROPAGE refuses the marker that tracking leaves there, time and again."""
    (tmp_path / "zeros").write_bytes(bytes(MIB) + b"x" * PAGE)
    with contextlib.closing(FileInput(tmp_path / "zeros")) as pages:
        pack(open_objects(store), "zeros", pages)
    policy = Policy(background=False, record="never", share="off")
    with lazy(store / "zeros", memory=kind, writable=True, track=True, policy=policy) as memory:
        with track(memory) as tracker:
            memory[9 * PAGE] = 1
            assert 9 in set(tracker.written())
            assert memory[8 * PAGE] == 0
        assert memory[9 * PAGE] == 1
