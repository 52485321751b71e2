"""A residency budget: what nobody wrote goes and comes back, what was written is never lost."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import cgroup, child
from helpers.pages import PAGE, numbers
from helpers.pages import page as whole
from helpers.skips import absent, need_features, need_root
from helpers.waiting import wait_until
from pager_live.conftest import PAGES
from userfault import LazyMemory, Pager, Policy, UsageError, lazy
from userfault.api import budget
from userfault.kernel.memtypes import MIB
from userfault.kernel.modes import Feature
from userfault.linux.room import Room

BUDGET = MIB
OVER = MIB  # holes that are under way, and a fill
SCENES = "pager_live.budget_scenes:"


@pytest.fixture(autouse=True)
def protects() -> None:
    need_features(Feature.WP_HUGETLBFS_SHMEM)


@pytest.fixture
def memory(image: Path) -> Iterator[LazyMemory]:
    with lazy(image, writable=True, policy=Policy(resident_bytes=BUDGET)) as made:
        yield made


def taken(memory: LazyMemory) -> int:
    """Bytes of the file behind the memory."""
    return os.fstat(memory._parts.recipe.fd).st_blocks * 512


def took_over(memory: LazyMemory, killed: int) -> bool:
    """A worker serves that was not killed yet."""
    return memory._parts.pager.takeovers > killed


def shown(memory: LazyMemory, page: int) -> int:
    """The number that fills the page; -1 where it is not one."""
    found = numbers(memory[page * PAGE : (page + 1) * PAGE])
    return found[0]


def test_more_than_the_budget_is_read_twice_and_never_more_than_it_is_in(
    memory: LazyMemory,
) -> None:
    assert memory.memory.name == "shmem"
    most = 0
    for page in [*range(PAGES), *range(PAGES)]:
        assert shown(memory, page) == page + 1
        most = max(most, taken(memory))
    assert most <= BUDGET + OVER
    found = memory.statistics()
    assert found.counters.evicted >= 2 * PAGES - 2 * BUDGET // PAGE
    assert found.residency is not None
    assert found.residency.resident <= BUDGET + OVER
    assert not found.finished


def test_what_was_written_stays_whatever_comes_after_it(memory: LazyMemory) -> None:
    draw = random.Random(1)
    written = {}
    for page in draw.sample(range(PAGES), 200):
        written[page] = page + 1_000_000
        memory[page * PAGE : (page + 1) * PAGE] = whole(written[page])
    for page in [*range(PAGES), *draw.sample(range(PAGES), 500)]:
        assert shown(memory, page) == written.get(page, page + 1)
    found = memory.statistics().residency
    assert found is not None
    assert found.written >= 200 * PAGE


def test_a_read_does_not_make_a_page_one_that_was_written(memory: LazyMemory) -> None:
    for page in range(PAGES):
        shown(memory, page)
    found = memory.statistics()
    assert found.counters.writes == 0
    assert found.residency is not None
    assert found.residency.written == 0


def test_more_written_than_may_be_in_stays_in_and_is_told(memory: LazyMemory) -> None:
    for page in range(0, PAGES, 4):
        memory[page * PAGE] = 9
    for page in range(PAGES):
        assert memory[page * PAGE] == (9 if page % 4 == 0 else (page + 1) & 255)
    found = memory.statistics().residency
    assert found is not None
    assert found.written > BUDGET
    assert "Policy(spill=)" in found.note


def test_what_was_written_goes_to_the_spill_file_and_comes_back(
    image: Path, tmp_path: Path
) -> None:
    policy = Policy(resident_bytes=BUDGET, spill=str(tmp_path))
    with lazy(image, writable=True, policy=policy) as memory:
        for page in range(PAGES):
            memory[page * PAGE : page * PAGE + 8] = (page + 5).to_bytes(8, "little")
        assert taken(memory) <= BUDGET + OVER
        for page in [*range(PAGES), *reversed(range(PAGES))]:
            held = memory[page * PAGE : (page + 1) * PAGE]
            assert held[:8] == (page + 5).to_bytes(8, "little")
            assert held[8:] == whole(page + 1)[8:]
        found = memory.statistics()
        assert found.counters.spilled > PAGES
        assert found.residency is not None
        assert found.residency.note == ""
        assert taken(memory) <= BUDGET + OVER
    assert not list(tmp_path.iterdir())


def test_a_full_spill_disk_keeps_what_was_written_in_memory(image: Path, tmp_path: Path) -> None:
    need_root()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        absent("cannot mount a tmpfs")
    try:
        found = child.run(SCENES + "write_all", str(image), str(tmp_path), BUDGET)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert found["wrong"] == []
    assert found["spilled"] > 0
    assert "No space left on device" in found["note"]


def test_no_byte_is_lost_when_workers_are_killed_meanwhile(image: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    policy = Policy(resident_bytes=BUDGET, spill=str(tmp_path))
    written: dict[int, int] = {}
    with lazy(image, writable=True, policy=policy) as memory:
        for killed in range(3):
            for _ in range(1500):
                page = draw.randrange(PAGES)
                if draw.random() < 0.3:
                    written[page] = draw.randrange(1 << 50)
                    memory[page * PAGE : (page + 1) * PAGE] = whole(written[page])
                else:
                    assert shown(memory, page) == written.get(page, page + 1)
            os.kill(memory._parts.pager.processes()["worker"], 9)
            wait_until(functools.partial(took_over, memory, killed))
        for page in range(PAGES):
            assert shown(memory, page) == written.get(page, page + 1)


def test_no_byte_is_lost_by_a_handover(image: Path) -> None:
    pager = Pager()
    with (
        contextlib.closing(pager),
        lazy(image, writable=True, pager=pager, policy=Policy(resident_bytes=BUDGET)) as memory,
    ):
        for page in range(0, PAGES, 16):
            memory[page * PAGE] = 99
        for _ in range(2):
            pager.replace()
            for page in range(PAGES):
                assert memory[page * PAGE] == (99 if page % 16 == 0 else (page + 1) & 255)
        assert taken(memory) <= BUDGET + OVER


def test_what_was_dropped_reads_zero_whether_it_was_in_or_not(memory: LazyMemory) -> None:
    for page in range(PAGES):
        shown(memory, page)
    memory.madvise(mmap.MADV_DONTNEED, 0, len(memory) // PAGE * PAGE)
    assert {memory[page * PAGE] for page in range(PAGES)} == {0}


def test_memory_that_is_moved_is_taken_out_and_keeps_what_was_written(image: Path) -> None:
    """Pages that mremap has moved, and left the old place of which is gone, go as ever."""
    from userfault.linux import libc
    from userfault.uapi import mman

    with lazy(image, writable=True, policy=Policy(resident_bytes=BUDGET)) as memory:
        memory[0] = 77
        size = 64 * PAGE
        room = libc.mmap(0, size, 0, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS, -1, 0)
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        libc.mremap(memory.address, size, size, flags, room)
        for page in range(64, PAGES):
            shown(memory, page)
        assert libc.read_memory(room, 1) == bytes([77])
        for page in range(1, 64):
            assert numbers(libc.read_memory(room + page * PAGE, PAGE))[0] == page + 1
        assert taken(memory) <= BUDGET + OVER
        libc.mremap(room, size, size, flags, memory.address)


def test_a_place_that_mremap_has_left_shows_what_its_new_one_does(image: Path) -> None:
    """MREMAP_DONTUNMAP: two places of one page, of which only one is known to be protected."""
    from userfault.linux import libc
    from userfault.uapi import mman

    with lazy(image, writable=True, policy=Policy(resident_bytes=BUDGET)) as memory:
        for page in range(PAGES):  # page 0 has gone by now
            shown(memory, page)
        size = 16 * PAGE
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_DONTUNMAP
        try:
            there = libc.mremap(memory.address, size, size, flags)
        except OSError as error:
            absent(f"mremap of shared memory with MREMAP_DONTUNMAP (5.13): {error}")
        try:
            for page in range(16):
                assert shown(memory, page) == page + 1
            memory[0:8] = b"written!"
            for page in range(16, PAGES):
                shown(memory, page)
            assert libc.read_memory(there, 8) == b"written!"
        finally:
            libc.munmap(there, size)


def test_a_file_that_is_more_than_the_cgroup_allows_is_read_without_being_killed(
    tmp_path: Path,
) -> None:
    need_root()
    if not cgroup.possible("memory"):
        absent("cannot make a memory cgroup")
    path = tmp_path / "large"
    size = 768 * MIB
    with path.open("wb") as file:
        file.truncate(size)
        for at in range(0, size, 64 * MIB):
            os.pwrite(file.fileno(), b"\1", at)
    with cgroup.limited("memory", 256 * MIB) as procs:
        found = child.finish(child.start(SCENES + "all_of_it", str(path), str(procs)), 120)
    assert found["total"] == size // (64 * MIB)
    assert found["memory"].startswith("shmem")
    assert found["evicted"] > 0
    assert found["within"]


def little_room(patch: pytest.MonkeyPatch) -> None:
    """A quarter of 16 MiB is kept, so 2 MiB may be taken of what is left."""
    patch.setattr(budget, "room_of", lambda: Room(6 * MIB, 16 * MIB, "a test"))


def test_a_source_that_is_more_than_what_is_left_becomes_shared_memory(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_room(monkeypatch)
    with lazy(image) as memory:
        assert memory.memory.name == "shmem"
        assert memory._parts.budget.follows
        assert [shown(memory, page) for page in range(PAGES)] == [*range(1, PAGES + 1)]


def test_who_names_a_type_of_which_no_page_can_be_taken_out_is_told(
    image: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    little_room(monkeypatch)
    with lazy(image, memory="anon", policy=Policy(background=False)) as memory:
        assert shown(memory, 5) == 6
    assert "private memory" in caplog.text
    assert 'memory="shmem"' in caplog.text


@pytest.mark.parametrize("name", ["anon", "shmem-private"])
def test_a_budget_that_cannot_be_kept_is_an_error_with_its_cure(image: Path, name: str) -> None:
    with pytest.raises(UsageError, match="private memory") as caught:
        lazy(image, memory=name, policy=Policy(resident_bytes=BUDGET))
    assert 'memory="shmem"' in str(caught.value)


def test_a_budget_that_holds_all_of_it_is_none(image: Path) -> None:
    with lazy(image, policy=Policy(resident_bytes=1 << 30)) as memory:
        memory.complete(30)
        assert memory.memory.name == "anon"
        assert memory.statistics().residency is None


def test_all_of_it_cannot_be_asked_for_where_not_all_of_it_may_be_in(memory: LazyMemory) -> None:
    with pytest.raises(UsageError, match="resident_bytes"):
        memory.complete()
    with pytest.raises(UsageError, match="resident_bytes"):
        memory.wait(1)


def test_a_spill_folder_that_is_none_is_told(image: Path, tmp_path: Path) -> None:
    policy = Policy(resident_bytes=BUDGET, spill=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="spill"):
        lazy(image, policy=policy)


def test_a_page_that_cannot_be_had_again_raises_sigbus(image: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copy(image, tmp_path))
    started = child.start(SCENES + "read_after_the_source_has_gone", str(mine), BUDGET)
    try:
        said, error = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == -signal.SIGBUS, said + error
