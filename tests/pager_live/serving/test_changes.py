"""What the client does to its memory while it is filled never shows stale or wrong bytes."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from helpers import child
from helpers.pages import PAGE, numbers
from pager_live.conftest import PAGES
from userfault import Policy, lazy
from userfault.linux import libc
from userfault.uapi import mman

DEMAND = Policy(background=False)


def at(address: int, page: int) -> int:
    """The number that the page at `address` + `page` pages holds, 0 for a page of zeros."""
    return numbers(libc.read_memory(address + page * PAGE, PAGE))[0]


@pytest.mark.parametrize("memory", ["anon", "shmem-private"])
@pytest.mark.parametrize("filled_before", [True, False])
def test_a_page_dropped_by_madvise_reads_zero(
    image: Path, memory: str, filled_before: bool
) -> None:
    with lazy(image, memory=memory, policy=DEMAND) as mapped:
        if filled_before:
            assert at(mapped.address, 10) == 11
        libc.madvise(mapped.address + 10 * PAGE, 2 * PAGE, mman.MADV_DONTNEED)
        assert at(mapped.address, 10) == 0
        assert at(mapped.address, 11) == 0
        assert at(mapped.address, 12) == 13


@pytest.mark.parametrize("filled_before", [True, False])
def test_a_page_of_shared_memory_removed_by_madvise_reads_zero(
    image: Path, filled_before: bool
) -> None:
    with lazy(image, memory="shmem", writable=True, policy=DEMAND) as mapped:
        if filled_before:
            assert at(mapped.address, 10) == 11
        libc.madvise(mapped.address + 10 * PAGE, PAGE, mman.MADV_REMOVE)
        assert at(mapped.address, 10) == 0
        assert at(mapped.address, 9) == 10


def test_dontneed_of_a_filled_page_of_shared_memory_keeps_its_bytes(image: Path) -> None:
    with lazy(image, memory="shmem", policy=DEMAND) as mapped:
        assert at(mapped.address, 10) == 11
        libc.madvise(mapped.address + 10 * PAGE, PAGE, mman.MADV_DONTNEED)
        assert at(mapped.address, 10) == 11  # a minor fault: the page cache has it still
        assert mapped.statistics().counters.minor == 1


def test_a_punched_hole_reads_zero_though_no_event_tells_of_it(image: Path) -> None:
    with lazy(image, memory="shmem", policy=DEMAND) as mapped:
        assert at(mapped.address, 10) == 11
        assert mapped._parts.recipe.backing is not None
        mapped._parts.recipe.backing.punch_hole(10 * PAGE, PAGE)
        assert at(mapped.address, 10) == 0
        assert mapped.statistics().counters.dropped == 1


def test_a_page_that_an_alias_wrote_is_not_overwritten(image: Path) -> None:
    with lazy(image, memory="shmem", policy=DEMAND) as mapped:
        backing = mapped._parts.recipe.backing
        assert backing is not None
        backing.write(20 * PAGE, (777).to_bytes(8, "little") * 512)
        assert at(mapped.address, 20) == 777
        assert mapped.statistics().counters.foreign == 1


def test_a_page_that_an_alias_wrote_in_part_has_lost_the_rest_unless_it_was_filled(
    image: Path,
) -> None:
    """The kernel makes a page of zeros for the write, and for a read: nobody asks the pager."""
    with lazy(image, memory="shmem", policy=DEMAND) as mapped:
        assert at(mapped.address, 20) == 21
        fd = mapped._parts.recipe.fd
        alias = libc.mmap(0, PAGES * PAGE, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_SHARED, fd, 0)
        for page in (20, 100):
            libc.write_memory(alias + page * PAGE + 8, (777).to_bytes(8, "little"))
        assert libc.read_memory(alias + 200 * PAGE, 8) == bytes(8)
        for page, word in ((20, 21), (100, 0), (200, 0)):
            found = libc.read_memory(mapped.address + page * PAGE, PAGE)
            mine = b"" if page == 200 else (777).to_bytes(8, "little")
            rest = word.to_bytes(8, "little") * 512
            assert found == rest[:8] + (mine or rest[:8]) + rest[16:]
        libc.munmap(alias, PAGES * PAGE)


def test_munmap_of_a_part_leaves_the_rest_served(image: Path) -> None:
    with lazy(image, policy=DEMAND) as mapped:
        libc.munmap(mapped.address + 16 * PAGE, 16 * PAGE)
        assert at(mapped.address, 15) == 16
        assert at(mapped.address, 32) == 33
        mapped.complete()
        assert mapped.statistics().states["removed"] == 16


def test_new_memory_in_the_place_of_unmapped_pages_is_left_alone(image: Path) -> None:
    with lazy(image, policy=DEMAND) as mapped:
        where = mapped.address + 16 * PAGE
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
        libc.mmap(where, 16 * PAGE, mman.PROT_READ | mman.PROT_WRITE, flags, -1, 0)
        mapped.complete()
        assert libc.read_memory(where, 16 * PAGE) == bytes(16 * PAGE)


def test_memory_moved_by_mremap_is_filled_at_its_new_place(image: Path) -> None:
    with lazy(image, policy=DEMAND) as mapped:
        assert at(mapped.address, 100) == 101
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
        room = libc.mmap(0, 64 * PAGE, mman.PROT_NONE, flags, -1, 0)
        moving = mapped.address + 100 * PAGE
        new = libc.mremap(
            moving, 64 * PAGE, 64 * PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, room
        )
        assert [at(new, page) for page in (0, 1, 63)] == [101, 102, 164]
        assert at(mapped.address, 99) == 100
        mapped.complete()
        assert numbers(libc.read_memory(new, 64 * PAGE)) == list(range(101, 165))
        libc.munmap(new, 64 * PAGE)


@pytest.mark.parametrize("memory", ["anon", "shmem"])
def test_memory_that_moves_all_the_time_it_is_filled_shows_the_source(
    image: Path, memory: str
) -> None:
    """A fill that mremap overtakes met ENOENT, which was taken for memory that is no more."""
    for _ in range(2):
        assert (
            child.run("pager_live.serving.moving_scenes:moved_to_and_fro", str(image), memory) == 0
        )


def test_memory_that_mremap_grew_reads_zero_beyond_the_source(image: Path) -> None:
    with lazy(image, policy=DEMAND) as mapped:
        last = mapped.address + 2047 * PAGE
        new = libc.mremap(last, PAGE, 4 * PAGE, mman.MREMAP_MAYMOVE)
        assert at(new, 0) == 2048
        assert at(new, 2) == 0
        libc.munmap(new, 4 * PAGE)


def test_mprotect_in_the_middle_does_not_stop_the_fill(image: Path) -> None:
    with lazy(image, writable=True, policy=DEMAND) as mapped:
        libc.mprotect(mapped.address + 100 * PAGE, 50 * PAGE, mman.PROT_READ)
        mapped.complete()
        assert numbers(mapped[: PAGES * PAGE]) == list(range(1, PAGES + 1))


@pytest.mark.parametrize("memory", ["anon", "shmem"])
def test_drops_and_touches_of_many_threads_during_the_fill_show_source_or_zero(
    image: Path, memory: str
) -> None:
    """A page never dropped must be the source's; a dropped one zero, once its drop has returned."""
    dropped: set[int] = set()
    wrong: list[str] = []
    lock = threading.Lock()

    def drop(mapped_at: int, advice: int) -> None:
        for page in range(5, PAGES, 16):
            libc.madvise(mapped_at + page * PAGE, PAGE, advice)
            with lock:
                dropped.add(page)

    def touch(mapped_at: int, first: int, step: int) -> None:
        for page in range(first, PAGES, step):
            with lock:
                was_dropped = page in dropped
            found = at(mapped_at, page)
            may_be = {0} if was_dropped else {page + 1}
            if page % 16 == 5 and not was_dropped:
                may_be = {0, page + 1}  # dropped just now, or not yet
            if found not in may_be:
                wrong.append(f"page {page}: {found} instead of one of {may_be}")

    with lazy(image, memory=memory, writable=True) as mapped:
        advice = mman.MADV_REMOVE if memory == "shmem" else mman.MADV_DONTNEED
        work = [threading.Thread(target=drop, args=(mapped.address, advice))]
        work += [threading.Thread(target=touch, args=(mapped.address, n, 3)) for n in range(3)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(30)
            assert not thread.is_alive(), "a thread hangs"
        mapped.complete()
        assert not wrong, wrong[:5]
        assert all(at(mapped.address, page) == 0 for page in range(5, PAGES, 16))


def test_cutting_the_file_behind_the_memory_short_hangs_nobody(image: Path) -> None:
    with lazy(image, memory="shmem", policy=DEMAND) as mapped:
        backing = mapped._parts.recipe.backing
        assert backing is not None
        backing.truncate(100 * PAGE)
        mapped.complete()
        assert at(mapped.address, 99) == 100
        # Beyond the end the kernel raises SIGBUS; a system call gets EFAULT instead.
        read, write = os.pipe()
        try:
            with pytest.raises(OSError, match="Bad address"):
                os.write(write, (ctypes.c_char * 8).from_address(mapped.address + 200 * PAGE))
        finally:
            os.close(read)
            os.close(write)
