"""How much memory is a process's own."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from userfault.kernel.memtypes import MIB
from userfault.linux.smaps import private_memory

SIZE = 32 * MIB


def grown_by(memory: mmap.mmap, before: int) -> int:
    """What the process has more of its own, now that all of `memory` was read or written."""
    assert sum(memory[at] for at in range(0, SIZE, mmap.PAGESIZE)) >= 0
    return private_memory(os.getpid()) - before


def test_memory_that_a_process_wrote_is_its_own() -> None:
    before = private_memory(os.getpid())
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * SIZE
        # The interpreter may let go of some of its own meanwhile.
        assert grown_by(memory, before) > SIZE - MIB


def test_a_file_that_nobody_else_maps_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * SIZE)
    with file.open("rb") as source:
        before = private_memory(os.getpid())
        with mmap.mmap(source.fileno(), SIZE, prot=mmap.PROT_READ) as memory:
            assert grown_by(memory, before) < SIZE // 2


def test_a_process_that_is_not_there_has_none() -> None:
    assert private_memory((1 << 22) + 1) == 0
