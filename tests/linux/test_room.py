"""What is left of memory, by cgroups of either version and by the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import cgroup
from helpers.skips import absent, need_root
from userfault.linux import room
from userfault.linux.room import Room, room_of

MIB = 1 << 20


def level(folder: Path, files: dict[str, str]) -> Room | None:
    for name, text in files.items():
        (folder / name).write_text(text)
    return room._level(folder)


def test_a_level_of_version_2_leaves_what_is_not_used_and_what_can_be_taken_back(
    tmp_path: Path,
) -> None:
    stat = f"anon 5\ninactive_file {10 * MIB}\nactive_file {5 * MIB}\nslab_reclaimable {MIB}\n"
    files = {"memory.max": f"{600 * MIB}\n", "memory.high": "max\n"}
    found = level(
        tmp_path, {**files, "memory.current": f"{100 * MIB}\n", "memory.stat": f"{stat}shmem 7\n"}
    )
    assert found is not None
    assert (found.left, found.limit) == (516 * MIB, 600 * MIB)


def test_what_throttles_a_level_is_a_limit_too(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "memory.high": f"{50 * MIB}\n", "memory.stat": ""}
    found = level(tmp_path, {**files, "memory.current": "0\n"})
    assert found is not None
    assert found.limit == 50 * MIB


def test_a_level_of_version_1(tmp_path: Path) -> None:
    files = {
        "memory.limit_in_bytes": f"{200 * MIB}\n",
        "memory.usage_in_bytes": f"{150 * MIB}\n",
        "memory.stat": f"total_inactive_file {20 * MIB}\ntotal_active_file 0\n",
    }
    found = level(tmp_path, files)
    assert found is not None
    assert found.left == 70 * MIB


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": "max\n", "memory.high": "max\n"},
        {"memory.limit_in_bytes": f"{1 << 62}\n"},
    ],
    ids=["none", "version 2", "version 1"],
)
def test_a_level_without_a_limit_leaves_everything(tmp_path: Path, files: dict[str, str]) -> None:
    assert level(tmp_path, files) is None


def test_a_part_is_kept_and_what_is_over_that_is_to_be_given_back() -> None:
    assert Room(500 * MIB, 600 * MIB, "").spare == 425 * MIB
    assert Room(100 * MIB, 300 * MIB, "").spare == 36 * MIB
    assert Room(10 * MIB, 300 * MIB, "").spare == -54 * MIB
    assert Room(50 * MIB, 100 * MIB, "").spare == 25 * MIB


def test_the_machine_is_the_last_limit() -> None:
    found = room_of()
    assert found is not None
    assert 0 < found.left <= found.limit


def test_the_cgroup_of_a_process_is_found() -> None:
    need_root()
    if not cgroup.possible("memory"):
        absent("cannot make a memory cgroup")
    import os
    import subprocess

    with cgroup.limited("memory", 300 * MIB) as procs, subprocess.Popen(["sleep", "60"]) as child:
        try:
            procs.write_text(str(child.pid))
            found = room_of(child.pid)
            assert found is not None
            assert found.limit == 300 * MIB
            assert procs.parent.name in found.whose
            assert (room_of(os.getpid()) or found).limit != found.limit
        finally:
            child.kill()
