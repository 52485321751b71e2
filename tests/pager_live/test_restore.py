"""A lazily filled memory shows its source, whatever the memory type and the order of touches."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import userfault
from helpers.pages import PAGE, numbers, pages
from helpers.skips import absent
from helpers.world import PoolLock
from pager_live import functions
from pager_live.conftest import PAGES, TAIL
from userfault import Policy, lazy
from userfault.linux.pagemap import Pagemap

MEMORIES = ["anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private"]
DEMAND = Policy(background=False)


@contextlib.contextmanager
def restored(source: object, memory: str, **options: object):  # type: ignore[no-untyped-def]
    """`lazy(...)` with the hugetlb pool locked where it matters."""
    with contextlib.ExitStack() as stack:
        if memory.startswith("hugetlb"):
            if os.geteuid():
                absent("growing the hugetlb pool needs root")
            stack.enter_context(PoolLock())
            options["grow_pool"] = True
        yield stack.enter_context(lazy(source, memory=memory, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("background", [True, False])
def test_every_byte_is_the_sources(image: Path, memory: str, background: bool) -> None:
    order = list(range(PAGES))
    random.Random(1).shuffle(order)
    with restored(image, memory, policy=Policy(background=background)) as mapped:
        assert len(mapped) == PAGES * PAGE + len(TAIL)
        for page in order[:300]:
            assert numbers(mapped[page * PAGE : (page + 1) * PAGE]) == [page + 1]
        mapped.complete()
        assert numbers(mapped[: PAGES * PAGE]) == list(range(1, PAGES + 1))
        assert mapped[PAGES * PAGE :] == TAIL
        statistics = mapped.statistics()
        assert statistics.finished
        assert statistics.states["present"] == statistics.pages


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_tail_of_the_last_page_reads_zero(image: Path, memory: str) -> None:
    with restored(image, memory, policy=DEMAND) as mapped:
        end = mapped.address + len(mapped)
        rest = -len(mapped) % mapped.page_size
        assert ctypes.string_at(end - len(TAIL), len(TAIL) + rest) == TAIL + bytes(rest)


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_tail_of_a_part_of_a_file_reads_zero_too(image: Path, memory: str) -> None:
    with restored(image, memory, offset=PAGE, length=3 * PAGE + 100, policy=DEMAND) as mapped:
        held = ctypes.string_at(
            mapped.address, -(-len(mapped) // mapped.page_size) * mapped.page_size
        )
        assert numbers(held[: 3 * PAGE]) == [2, 3, 4]
        assert held[3 * PAGE : 3 * PAGE + 100] == pages(5, 1)[:100]
        assert not any(held[3 * PAGE + 100 :])


@pytest.mark.parametrize("memory", ["anon", "shmem", "shmem-private"])
def test_only_touched_pages_are_filled_without_background(image: Path, memory: str) -> None:
    with restored(image, memory, policy=DEMAND) as mapped, Pagemap() as pagemap:
        touched = [3, 700, 1500, 90]
        for page in touched:
            assert numbers(mapped[page * PAGE : (page + 1) * PAGE]) == [page + 1]
        entries = pagemap.entries(mapped.address, PAGES)
        assert [n for n, entry in enumerate(entries) if entry.present] == sorted(touched)


def test_once_complete_the_range_is_registered_with_nobody(image: Path) -> None:
    with lazy(image) as mapped:
        mapped.complete()
        with userfault.linux.uffd.LiveUserfaultfd.open() as other:
            other.register(mapped.address, PAGES * PAGE, userfault.kernel.modes.Mode.MISSING)


@pytest.mark.parametrize(
    "source",
    [pages(1, 5), bytearray(pages(1, 5)), memoryview(pages(1, 5)), np.frombuffer(pages(1, 5))],
    ids=["bytes", "bytearray", "memoryview", "numpy"],
)
def test_a_buffer_is_copied_once_and_the_statistics_say_so(source: object) -> None:
    with lazy(source) as mapped:
        assert numbers(mapped[:]) == [1, 2, 3, 4, 5]
        assert mapped.statistics().copied_bytes == 5 * PAGE


def test_a_file_is_not_copied(image: Path) -> None:
    with image.open("rb") as file, lazy(file) as from_file, lazy(file.fileno()) as from_number:
        assert numbers(from_file[:PAGE]) == numbers(from_number[:PAGE]) == [1]
        assert from_file.statistics().copied_bytes == 0


def test_a_memfd_is_a_source() -> None:
    fd = os.memfd_create("image")
    try:
        os.write(fd, pages(1, 3))
        with lazy(fd, offset=PAGE) as mapped:
            assert numbers(mapped[:]) == [2, 3]
    finally:
        os.close(fd)


def test_zeros_are_mapped_without_memory() -> None:
    with lazy(userfault.zero(64 * PAGE)) as mapped, Pagemap() as pagemap:
        assert mapped[:] == bytes(64 * PAGE)
        mapped.complete()
        assert mapped.statistics().counters.zeroed == 64
        assert not any(entry.exclusive for entry in pagemap.entries(mapped.address, 64))


@pytest.mark.parametrize("memory", ["anon", "shmem", "hugetlb"])
def test_writes_stay_private_to_the_memory(image: Path, memory: str) -> None:
    with restored(image, memory, writable=True) as mapped:
        mapped[5 * PAGE] = 0xAB
        mapped.complete()
        assert mapped[5 * PAGE] == 0xAB
        assert numbers(mapped[6 * PAGE : 7 * PAGE]) == [7]
    assert numbers(image.read_bytes()[5 * PAGE : 6 * PAGE]) == [6]


def test_memory_that_is_not_writable_refuses_writes(image: Path) -> None:
    with lazy(image) as mapped, pytest.raises(TypeError):
        mapped[0] = 1


def test_numpy_reads_the_memory_without_a_copy(image: Path) -> None:
    with lazy(image, length=PAGES * PAGE) as mapped:
        array = np.frombuffer(mapped, dtype="<u8")
        assert array.ctypes.data == mapped.address
        assert (array.reshape(PAGES, -1)[:, 0] == np.arange(1, PAGES + 1)).all()
        del array


def test_prefetch_fills_what_was_asked_for(image: Path) -> None:
    with lazy(image, policy=DEMAND) as mapped, Pagemap() as pagemap:
        mapped.prefetch(100 * PAGE, 200 * PAGE)
        while mapped.statistics().states["present"] < 100:
            pass
        entries = pagemap.entries(mapped.address, PAGES)
        assert [n for n, entry in enumerate(entries) if entry.present] == list(range(100, 200))


def test_progress_is_told_and_ends_with_all_pages(image: Path) -> None:
    told: list[tuple[int, int]] = []
    with lazy(image, policy=DEMAND) as mapped:
        mapped.complete(progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (PAGES + 1, PAGES + 1)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_wait_says_when_time_is_over() -> None:
    source = userfault.function(functions.slow_page, 4 * PAGE, slow=2, seconds=1)
    with lazy(source, policy=DEMAND) as mapped:
        assert not mapped.wait(0.05)
        with pytest.raises(TimeoutError):
            mapped.complete(timeout=0)


def test_one_pager_serves_many_mappings_and_threads(image: Path) -> None:
    wrong: list[int] = []

    def touch(mapped: userfault.LazyMemory, seed: int) -> None:
        word = ctypes.create_string_buffer(8)
        memmove = ctypes.CDLL(None).memmove
        memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        for page in random.Random(seed).sample(range(PAGES), 50):
            memmove(word, mapped.address + page * PAGE, 8)
            if int.from_bytes(word.raw, "little") != page + 1:
                wrong.append(page)

    with userfault.Pager() as pager, contextlib.ExitStack() as stack:
        mappings = [
            stack.enter_context(lazy(image, memory=MEMORIES[n % 3], pager=pager, policy=DEMAND))
            for n in range(12)
        ]
        threads = [
            threading.Thread(target=touch, args=(mapping, n))
            for n, mapping in enumerate(mappings * 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
        assert len({mapping.statistics().pager_pid for mapping in mappings}) == 1


@pytest.mark.parametrize("memory", ["shmem", "shmem-private"])
def test_prepared_memory_is_mapped_without_a_copy(memory: str) -> None:
    fd = os.memfd_create("prepared")
    try:
        os.write(fd, pages(1, 100))
        with lazy(fd, memory=memory, prepared=True, policy=DEMAND) as mapped:
            assert numbers(mapped[7 * PAGE : 8 * PAGE]) == [8]
            mapped.complete()
            assert numbers(mapped[:]) == list(range(1, 101))
            counters = mapped.statistics().counters
            assert (counters.continued, counters.copied) == (100, 0)
            assert counters.minor == counters.faults
    finally:
        os.close(fd)


def test_a_memfd_of_small_pages_is_no_prepared_hugetlb_memory() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(2 << 20)
        with pytest.raises(userfault.UsageError, match="one of huge pages with"):
            lazy(file, memory="hugetlb", prepared=True)


def test_the_object_is_a_mmap_with_its_address(image: Path) -> None:
    with lazy(image) as mapped:
        assert mapped.address % PAGE == 0
        assert isinstance(mapped, mmap.mmap)
        with pytest.raises(userfault.UsageError, match="resize"):
            mapped.resize(PAGE)
