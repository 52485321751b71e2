"""Who pays for a shared copy: the keeper, whoever fills it; and what happens where it cannot."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from helpers import cgroup, child
from helpers.keepers import keeper
from helpers.skips import absent, need_root
from helpers.stores import store
from userfault import Policy, lazy
from userfault.kernel.memtypes import MIB

SCENES = "pager_live.sharing.accounts_scenes:"
SIZE = 48 * MIB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot that takes some memory."""
    need_root()
    if not cgroup.possible("memory"):
        absent("no memory cgroup can be made")
    dice = random.Random(5)
    return store(tmp_path_factory.mktemp("large") / "store", "one", dice.randbytes(SIZE))


def test_the_pages_of_a_copy_are_charged_to_its_keeper(large: Path) -> None:
    demand = Policy(share="on", background=False, record="never")
    with lazy(large, policy=demand), cgroup.limited("memory", 400 * MIB) as procs:
        found = child.run(SCENES + "restored_inside", str(large), str(procs))
    assert found["published"] == SIZE // 4096
    assert found["shmem"] < SIZE // 2  # its pager has some for chunks on their way


def test_a_keeper_without_room_costs_sharing_and_nothing_else(large: Path) -> None:
    with cgroup.limited("memory", 30 * MIB) as procs:
        child.run(SCENES + "keeper_inside", str(procs))
        assert "userfault-" in Path(f"/proc/{keeper()}/cgroup").read_text()
        with lazy(large, policy=Policy(share="on", record="never")) as mapped:
            mapped.complete()
            counters = mapped.statistics().counters
            assert counters.copied > 0
            assert counters.published + counters.copied == SIZE // 4096
            dice = random.Random(5)
            assert mapped[:] == dice.randbytes(SIZE)
