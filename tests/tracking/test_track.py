"""`track()`: what was written is told, on every memory, in every mode."""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import os
import random
import signal
import threading

import pytest

import userfault
from helpers.child import run
from helpers.leaks import descriptors, opened_since
from helpers.skips import need_root
from tracking.memories import KINDS, MIB, PAGE, address_of, mapping
from userfault.api import track as module
from userfault.api.track import MODES, Tracker, track
from userfault.kernel.errors import (
    FeatureMissing,
    PagerError,
    TrackingLost,
    UsageError,
)

IN_KERNEL = ("async", "messages")


@pytest.mark.parametrize("kind", KINDS)
def test_pages_written_since_the_last_call_are_told_on_every_memory(kind: str) -> None:
    with mapping(kind, 8 * MIB) as memory:
        memory[5 * PAGE] = 1
        with track(memory) as tracker:
            size = tracker.page_size
            assert tracker.mode == "async"
            assert not tracker.written()
            assert memory[6 * size // 2] is not None  # a read is no write
            assert not tracker.written()
            for at in (0, 3 * size // 2, 3 * size - 1):
                memory[at] = 7
            assert list(tracker.written()) == [0, 1, 2]
            memory[len(memory) - 1] = 1
            assert tracker.written().runs == ((len(memory) - size, size),)
            assert not tracker.written()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["anon", "shared"])
def test_every_mode_tells_the_same(kind: str, mode: str) -> None:
    chosen = random.Random(mode)
    with mapping(kind, 2 * MIB) as memory, track(memory, mode=mode) as tracker:
        assert tracker.mode == mode
        assert not tracker.written()
        for count in (1, 3, 40, 0, 512):
            pages = set(chosen.sample(range(512), count))
            for page in pages:
                at = page * PAGE + chosen.randrange(PAGE)
                memory[at] = memory[at] + 1 & 0xFF
            assert set(tracker.written()) == pages


@pytest.mark.parametrize("mode", IN_KERNEL)
def test_a_write_of_the_same_bytes_is_a_write(mode: str) -> None:
    with mapping("anon", MIB) as memory, track(memory, mode=mode) as tracker:
        memory[PAGE] = memory[PAGE]
        assert list(tracker.written()) == [1]


@pytest.mark.parametrize("mode", IN_KERNEL)
@pytest.mark.parametrize("kind", ["anon", "shared"])
def test_what_system_calls_write_is_told(kind: str, mode: str) -> None:
    with mapping(kind, MIB) as memory, track(memory, mode=mode) as tracker:
        with open("/dev/zero", "rb") as zeros:
            zeros.readinto(memoryview(memory)[3 * PAGE : 5 * PAGE])
        assert list(tracker.written()) == [3, 4]


@pytest.mark.parametrize("mode", MODES)
def test_no_write_of_another_thread_is_lost(mode: str) -> None:
    """A copy that takes over what each call tells is at the end what the memory is; and whatever
    had ended before a call is in what that call tells, or one before it."""
    size = 4 * MIB if mode != "compare" else MIB  # more runs than fit in a buffer of the kernel
    with mapping("anon", size) as memory, track(memory, mode=mode) as tracker:
        copy = bytearray(memory)
        start, ended, told = address_of(memory), dict[int, int](), set[int]()
        stop = threading.Event()

        def write(number: int) -> None:
            chosen = random.Random(number)
            turn = 0
            while not stop.is_set():
                turn += 1
                page = chosen.randrange(size // PAGE // 4) * 4 + number
                # Without the GIL, so that it meets the other threads in the middle of their calls.
                ctypes.memset(start + page * PAGE, turn % 251 + 1, 64)
                ended[page] = turn % 251 + 1

        threads = [threading.Thread(target=write, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60 if mode != "compare" else 10):
                before = set(ended)
                for offset, length in tracker.written().runs:
                    copy[offset : offset + length] = memory[offset : offset + length]
                    told.update(range(offset // PAGE, (offset + length) // PAGE))
                assert before <= told
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for offset, length in tracker.written().runs:
            copy[offset : offset + length] = memory[offset : offset + length]
        if mode != "compare":  # there, what changed while it was copied may be told no more
            assert copy == memory[:]
        assert all(memory[page * PAGE] == value for page, value in ended.items())


def test_dropped_pages_count_as_written() -> None:
    with mapping("anon", MIB) as memory:
        memory[:] = b"\1" * MIB
        with track(memory) as tracker:
            memory.madvise(mmap.MADV_DONTNEED, 4 * PAGE, 2 * PAGE)
            assert {4, 5} <= set(tracker.written())


def test_pages_dropped_from_a_shared_file_by_this_mapping_are_not_written() -> None:
    """MADV_DONTNEED leaves the bytes of shared memory as they are, and the mark."""
    with mapping("shared", MIB) as memory:
        memory[:] = b"\1" * MIB
        with track(memory) as tracker:
            memory.madvise(mmap.MADV_DONTNEED, 4 * PAGE, 2 * PAGE)
            assert not tracker.written()
            memory[4 * PAGE] = 2
            assert list(tracker.written()) == [4]


@pytest.mark.parametrize("length", [5, PAGE - 1, 3 * PAGE + 7, 70 * PAGE + 1])
def test_the_edges_of_a_buffer_are_its_own(length: int) -> None:
    """What others have in its first and last page is not told, what it has in them is."""
    around = bytearray(length + 2 * PAGE)
    inside = memoryview(around)[100 : 100 + length]
    with track(inside) as tracker:
        around[0] = around[99] = around[100 + length] = 1
        assert not tracker.written()
        inside[0] = inside[length - 1] = 1
        runs = tracker.written().runs
        assert runs[0][0] == 0
        assert sum(runs[-1]) == length
        assert not tracker.written()
    inside.release()


def test_arrays_are_tracked_in_any_order_of_their_axes() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (numpy.zeros((300, 700)), numpy.zeros((300, 700), order="F"), numpy.zeros(9)):
        with track(array) as tracker:
            assert not tracker.written()
            array.T.flat[0] = 1
            (run,) = tracker.written().runs
            assert run[0] == 0
    with pytest.raises(UsageError, match="one piece"):
        track(numpy.zeros((10, 10))[:, 1])


def test_pages_are_to_be_had_as_a_set() -> None:
    with mapping("anon", MIB) as memory, track(memory) as tracker:
        memory[0] = memory[PAGE] = memory[9 * PAGE] = 1
        found = tracker.written()
        assert list(found.pages) == list(found) == [0, 1, 9]
        assert len(found) == 3
        assert found


def test_memory_that_is_tracked_stays_where_it_is() -> None:
    memory = mmap.mmap(-1, MIB)
    tracker = track(memory)
    with pytest.raises(BufferError):
        memory.close()
    tracker.close()
    tracker.close()
    with pytest.raises(UsageError, match="closed"):
        tracker.written()
    memory.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_tracker_that_is_forgotten_lets_go(mode: str) -> None:
    before = descriptors()
    memory = mmap.mmap(-1, MIB)
    tracker = track(memory, mode=mode)
    memory[0] = 1
    del tracker
    gc.collect()
    assert not opened_since(before)
    memory[0] = 2
    memory.close()


def test_a_memory_may_be_tracked_again_by_another() -> None:
    with mapping("anon", MIB) as memory:
        for _ in range(3):
            with track(memory) as tracker:
                memory[PAGE] = 1
                assert list(tracker.written()) == [1]


@pytest.mark.parametrize("mode", IN_KERNEL)
def test_a_forked_child_writes_for_itself(mode: str) -> None:
    with mapping("anon", MIB) as memory, track(memory, mode=mode) as tracker:
        memory[0] = 1

        child = os.fork()
        if not child:
            code = 1
            try:
                memory[2 * PAGE] = 1  # nobody is asked
                with pytest.raises(PagerError, match="another process"):
                    tracker.written()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        memory[PAGE] = 1
        assert list(tracker.written()) == [0, 1]


def test_memory_that_a_pager_fills_is_refused() -> None:
    with (
        userfault.lazy(b"x" * MIB, policy=userfault.Policy(background=False)) as memory,
        pytest.raises(UsageError, match="pager still fills"),
    ):
        track(memory)


def test_memory_of_another_userfaultfd_is_compared_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mapping("anon", MIB) as memory, track(memory):
        with caplog.at_level(logging.WARNING, "userfault"), track(memory) as second:
            assert second.mode == "compare"
            assert "EBUSY" in second.why
            memory[PAGE] = 1
            assert list(second.written()) == [1]
        assert "compare" in caplog.text
        with pytest.raises(userfault.RegistrationRefused):
            track(memory, mode="async")


def test_a_kernel_without_wp_async_is_answered_by_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise FeatureMissing(["WP_ASYNC"], [])

    monkeypatch.setitem(module._MAKE, "async", refuse)
    with mapping("anon", MIB) as memory, caplog.at_level(logging.WARNING, "userfault"):
        with track(memory) as tracker:
            assert tracker.mode == "messages"
            assert "WP_ASYNC" in tracker.why
            memory[PAGE] = 1
            assert list(tracker.written()) == [1]
        assert "WP_ASYNC" in caplog.text


def test_users_without_rights_lose_nothing_by_it() -> None:
    """Under WP_ASYNC no fault is delivered, so what the kernel itself writes is seen as well."""
    need_root()
    mode, pages, refused = run("tracking.scenes:as_nobody")
    assert (mode, pages) == ("async", [1, 3, 4])
    assert "OpenRefused" in refused


def _helper_of(tracker: Tracker) -> int:
    way = tracker._held.way
    assert way is not None
    pid: int = way._helper.pid  # type: ignore[attr-defined]
    return pid


def test_nobody_waits_for_ever_when_the_process_that_answers_is_killed() -> None:
    with mapping("anon", MIB) as memory, track(memory, mode="messages") as tracker:
        os.kill(_helper_of(tracker), signal.SIGKILL)
        memory[PAGE] = 1
        with pytest.raises(TrackingLost, match="take all of it for written"):
            tracker.written()


def test_what_is_mapped_in_its_place_is_not_taken_for_unwritten() -> None:
    with mapping("anon", MIB) as memory, track(memory) as tracker:
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        fixed = 0x10 | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        place = ctypes.c_void_p(address_of(memory) + 16 * PAGE)
        libc.mmap(place, ctypes.c_size_t(PAGE), 3, fixed, -1, ctypes.c_long(0))
        with pytest.raises(TrackingLost, match="mapped there"):
            tracker.written()


def test_what_cannot_be_tracked_is_told() -> None:
    for thing in (3, "text", [1], b""):
        with pytest.raises(UsageError, match="cannot track"):
            track(thing)
    with pytest.raises(UsageError, match="mode"):
        track(bytearray(9), mode="magic")
