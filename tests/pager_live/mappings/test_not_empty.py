"""Whatever fills memory before it can be registered: it shows the source's bytes, or is refused."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import absent, need_root
from helpers.world import PoolLock
from userfault.kernel.memtypes import MIB
from userfault.linux.hugepool import PoolShare

SCENES = "pager_live.mappings.empty_scenes:"
SMALL = ["anon", "shmem", "shmem-private"]
HUGE = ["hugetlb", "hugetlb-private"]
PRIVATE = ["anon", "shmem-private", "hugetlb-private"]
CURRENT, FUTURE, ONFAULT = 1, 2, 4  # MCL_*, mlockall(2)


@contextlib.contextmanager
def pool_for(memory: str) -> Iterator[None]:
    """The hugetlb pools, where they are needed: held here, since a client that dies cannot."""
    if memory not in HUGE:
        yield
        return
    need_root()
    with PoolLock():
        share = PoolShare(2 * MIB, 5, grow=True)
        try:
            yield
        finally:
            share.close()


@pytest.fixture(scope="session")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that touches every large mapping, to be preloaded."""
    if not shutil.which("cc"):
        absent("no C compiler: cc is not installed")
    made = tmp_path_factory.mktemp("filler") / "filler.so"
    source = Path(__file__).with_name("filler.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.parametrize("flags", [CURRENT | FUTURE, FUTURE, FUTURE | ONFAULT, CURRENT])
@pytest.mark.parametrize("memory", [*SMALL, "anon writable"])
def test_locked_memory_shows_the_source(image: Path, memory: str, flags: int) -> None:
    kind, _, writable = memory.partition(" ")
    assert child.run(SCENES + "locked", str(image), kind, flags, bool(writable)) == "right"


@pytest.mark.parametrize("memory", HUGE)
def test_locked_huge_pages_show_the_source(image: Path, memory: str) -> None:
    with pool_for(memory):
        assert child.run(SCENES + "locked", str(image), memory, FUTURE, False) == "right"


def test_memory_stays_locked_and_what_is_filled_into_it_is_locked(image: Path) -> None:
    locked, filled = child.run(SCENES + "locked_bytes", str(image), FUTURE)
    assert locked >= filled > 0


@pytest.mark.parametrize("memory", SMALL)
def test_children_of_a_locked_program_are_served(image: Path, memory: str) -> None:
    need_root()
    assert child.run(SCENES + "locked_fork", str(image), memory, FUTURE) == 0


def test_a_limit_on_locked_memory_is_named_with_its_cure() -> None:
    need_root()
    assert "ulimit -l" in child.run(SCENES + "locked_beyond_the_limit")


@pytest.mark.parametrize("memory", SMALL)
def test_memory_that_a_preloaded_library_touches_shows_the_source(
    image: Path, filler: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(filler))
    assert child.run(SCENES + "plain", str(image), memory) == "right"


@pytest.mark.parametrize("memory", SMALL)
def test_memory_that_does_not_become_empty_is_refused(
    image: Path, filler: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(filler))
    monkeypatch.setenv("FILLER", "again")
    assert "LD_PRELOAD" in child.run(SCENES + "plain", str(image), memory)


@pytest.mark.parametrize("memory", SMALL)
def test_without_proc_a_page_that_is_there_is_seen(memory: str) -> None:
    need_root()
    assert child.run(SCENES + "seen_without_proc", memory) == ["", "4 KiB of 16 MiB"]


@pytest.mark.parametrize("memory", ["shmem", "shmem-private"])
def test_prepared_memory_that_is_mapped_already_shows_its_file(memory: str) -> None:
    """Locked: mapped before it is registered; what it shows is right, and stays in its file."""
    assert child.run(SCENES + "locked_prepared", memory, FUTURE) == "right"


@pytest.mark.parametrize("memory", PRIVATE)
def test_a_page_with_foreign_bytes_that_the_pager_meets_ends_the_client(
    image: Path, memory: str
) -> None:
    need_root()  # to look into the client whatever Yama says
    with pool_for(memory):
        process = child.start(SCENES + "intruded", str(image), memory, False)
        _, told = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert "a page was there that the pager had not filled" in told


@pytest.mark.parametrize("memory", PRIVATE)
def test_a_page_with_the_sources_bytes_that_the_pager_meets_is_present(
    image: Path, memory: str
) -> None:
    need_root()
    with pool_for(memory):
        assert child.run(SCENES + "intruded", str(image), memory, True) == "right"
