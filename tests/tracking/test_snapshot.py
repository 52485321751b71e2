"""`Snapshot`: layers of what was written, each as the memory was at one moment."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import userfault
from helpers.child import run
from helpers.skips import need_root
from helpers.waiting import wait_until
from tracking.memories import KINDS, MIB, PAGE, address_of, mapping
from userfault.api.snapshot import Snapshot
from userfault.api.track import MODES
from userfault.kernel.errors import PagerError, SourceError, UsageError
from userfault.snapshot.errors import SnapshotInUse, StoreError
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.verify import verify


def restored(store: Path, name: str) -> bytes:
    """The bytes of a snapshot."""
    with userfault.lazy(store / name) as memory:
        return memory[:]


def scatter(memory: object, chosen: random.Random, count: int) -> None:
    """Random bytes into random pages."""
    view = memoryview(memory)  # type: ignore[arg-type]
    for _ in range(count):
        at = chosen.randrange(len(view) - 8)
        view[at : at + 8] = chosen.randbytes(8)
    view.release()


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_is_the_memory_at_that_time_whatever_memory_it_is(
    kind: str, store: Path
) -> None:
    chosen = random.Random(kind)
    with mapping(kind, 4 * MIB) as memory, Snapshot(store / "one", memory) as snapshot:
        wanted = {}
        for count in (700, 20, 0, 1):
            scatter(memory, chosen, count)
            made = snapshot.update()
            wanted[made.name] = memory[:]
        assert list(wanted) == ["one", "one-1", "one-2", "one-3"]
        assert made.base == "one-2"
        assert made.read <= max(1, snapshot._part.tracker.page_size // PAGE)
        for name, content in wanted.items():
            assert restored(store, name) == content


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_is_as_small_as_what_was_written(mode: str, store: Path) -> None:
    chosen = random.Random(mode)
    with mapping("anon", 8 * MIB) as memory:
        memory[:] = chosen.randbytes(8 * MIB)
        with Snapshot(store / "one", memory, mode=mode) as snapshot:
            assert snapshot.mode == mode
            whole = snapshot.update()
            assert whole.stored == 2048
            scatter(memory, chosen, 20)
            layer = snapshot.update()
            assert 10 < layer.stored <= 21
            assert layer.bytes <= 0.03 * whole.bytes
            assert restored(store, layer.name) == memory[:]


@contextmanager
def writing(*loops: Callable[[int], object]) -> Iterator[list[int]]:
    """Threads that call these with 1, 2, 3 and so on, until the block ends; how far each is."""
    stop = threading.Event()
    turns = [0] * len(loops)

    def write(number: int) -> None:
        while not stop.is_set():
            loops[number](turns[number] + 1)
            turns[number] += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(len(loops))]
    for thread in threads:
        thread.start()
    try:
        yield turns
    finally:
        stop.set()
        for thread in threads:
            thread.join()


_PAGES = 64


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_is_of_one_moment_whatever_the_threads_do(mode: str, store: Path) -> None:
    """A thread writes its turn into one page after the other, and another copies each of these to
    a page of its own, in the same order.  So at every moment what is written later is not newer,
    and the copies are not newer than what they are copies of."""
    with mapping("anon", 4 * _PAGES * PAGE) as memory:
        start = address_of(memory)
        places = random.Random(1).sample(range(4 * _PAGES), 2 * _PAGES)
        first, second = places[:_PAGES], places[_PAGES:]

        def count(turn: int) -> None:
            number = ctypes.c_uint64(turn)
            for page in first:
                ctypes.memmove(start + page * PAGE, ctypes.byref(number), 8)

        def follow(_: int) -> None:
            for page, other in zip(reversed(first), reversed(second), strict=True):
                ctypes.memmove(start + other * PAGE, start + page * PAGE, 8)

        def turns_in(content: bytes, pages: list[int]) -> list[int]:
            return [int.from_bytes(content[p * PAGE : p * PAGE + 8], "little") for p in pages]

        with Snapshot(store / "x", memory, mode=mode) as snapshot:
            names = []
            with writing(count, follow) as turns:
                for _ in range(4):
                    before = turns[0]
                    names.append((before, snapshot.update().name))
                    wait_until(lambda before=before: turns[0] > before)  # type: ignore[misc]
            assert snapshot.update().stopped_s > 0
        for before, name in names:
            content = restored(store, name)
            written, copied = turns_in(content, first), turns_in(content, second)
            assert written == sorted(written, reverse=True)
            assert written[0] - written[-1] <= 1
            assert written[-1] >= before
            assert all(theirs <= ours for theirs, ours in zip(copied, written, strict=True))


def test_without_a_stop_nobody_stands_still(store: Path) -> None:
    with mapping("anon", MIB) as memory, Snapshot(store / "one", memory) as snapshot:
        memory[0] = 1
        made = snapshot.update(consistent=False)
        assert made.stopped_s == 0
        assert restored(store, "one") == memory[:]


def test_an_update_that_fails_loses_nothing(store: Path) -> None:
    with mapping("anon", MIB) as memory, Snapshot(store / "one", memory) as snapshot:
        snapshot.update()
        memory[5 * PAGE] = 1
        with pytest.raises(SnapshotInUse):
            snapshot.update("one")
        assert snapshot.newest == "one"
        memory[6 * PAGE] = 2
        made = snapshot.update("two")
        assert (made.base, made.read) == ("one", 2)
        assert restored(store, "two") == memory[:]


def test_a_full_store_leaves_what_was_stored(small_disk: Path) -> None:
    with mapping("anon", 2 * MIB) as memory:
        with Snapshot(small_disk / "s" / "one", memory) as snapshot:
            memory[: 8 * PAGE] = os.urandom(8 * PAGE)
            snapshot.update()
            old = memory[:]
            memory[:MIB] = os.urandom(MIB)
            with pytest.raises(StoreError, match=r"full|space|room"):
                snapshot.update()
            assert restored(small_disk / "s", "one") == old
            memory[:MIB] = bytes(MIB)
            made = snapshot.update()
            assert restored(small_disk / "s", made.name) == memory[:]
        assert not verify(open_objects(small_disk / "s"), made.name).damage


def test_the_first_may_lie_on_a_snapshot_that_is_there(store: Path) -> None:
    chosen = random.Random(3)
    with mapping("anon", 2 * MIB) as memory:
        memory[:] = chosen.randbytes(2 * MIB)
        with Snapshot(store / "one", memory) as snapshot:
            snapshot.update()
        memory[7 * PAGE] ^= 1
        with Snapshot(store / "two", memory, base="one") as snapshot:
            made = snapshot.update()
        assert (made.base, made.stored) == ("one", 1)
        assert restored(store, "two") == memory[:]


def test_bytes_of_others_in_its_first_and_last_page_are_not_stored(store: Path) -> None:
    around = bytearray(b"\xee" * 20 * PAGE)
    with memoryview(around)[5000:60000] as inside:
        inside[:] = b"\x11" * len(inside)
        with Snapshot(store / "one", inside) as snapshot:
            snapshot.update()
            inside[-1] = 0x22
            snapshot.update()
    content = restored(store, "one-1")
    assert 0xEE not in content
    assert content.strip(b"\0") == b"\x11" * 54999 + b"\x22"


def test_a_helper_that_was_killed_is_told_and_replaced(store: Path) -> None:
    with mapping("anon", MIB) as memory, Snapshot(store / "one", memory) as snapshot:
        snapshot.update()
        helper = snapshot._held.stopper._helper
        assert helper is not None
        os.kill(helper.pid, signal.SIGKILL)
        memory[0] = 1
        with pytest.raises(PagerError, match="died"):
            snapshot.update()
        assert restored(store, snapshot.update().name) == memory[:]


def test_pages_that_cannot_be_read_are_told_and_nothing_is_stored(
    tmp_path: Path, store: Path
) -> None:
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(16 * PAGE)
        memory = mmap.mmap(file.fileno(), 16 * PAGE)
        file.truncate(4 * PAGE)
        with Snapshot(store / "one", memory) as snapshot:
            with pytest.raises(SourceError, match="cannot be read"):
                snapshot.update()
            file.truncate(16 * PAGE)
            snapshot.update()
        memory.close()


def test_where_nobody_can_be_stopped_that_is_told_with_what_to_do(store: Path) -> None:
    need_root()
    told, name = run("tracking.scenes:without_ptrace", str(store))
    assert "ptrace" in told
    assert name == "one-1"
    assert restored(store, name)[5 * PAGE] == 1  # what the one that failed had seen is not lost


def test_wrong_calls_are_refused(tmp_path: Path, store: Path) -> None:
    with mapping("anon", MIB) as memory:
        with pytest.raises(UsageError, match="no store"):
            Snapshot("name", memory)
        with pytest.raises(UsageError, match="name"):
            Snapshot(tmp_path / "bad name", memory)
        snapshot = Snapshot(store / "one", memory)
        snapshot.close()
        snapshot.close()
        with pytest.raises(UsageError, match="closed"):
            snapshot.update()
