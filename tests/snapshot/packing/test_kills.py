"""Whatever is killed while it works on a store, or meets a full disk: the store stays sound."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.folders import in_memory
from helpers.skips import need_root
from snapshot.images import SMALL, Pages, image, read_image, whole
from snapshot.watched import no_garbage
from userfault.snapshot.errors import SnapshotInUse, StoreFull
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.layers import snapshot_names
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.export import export_raw
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

KILLS = 25
PAGES = 40


@pytest.fixture
def folder() -> Iterator[Path]:
    with in_memory() as made:
        yield made


def _seed(name: str) -> int:
    """The image that a snapshot of this name has: after its first hyphen."""
    return int(name.split("-")[1])


def _work(folder: str, number: int, go: int) -> None:
    """In the child: one job after the other, on the snapshots `s-…`, until it is killed."""
    store = LocalObjects(f"{folder}/store")
    chance = random.Random(number)
    os.write(go, b"x")
    for turn in range(1 << 30):
        seed = chance.randrange(4)
        name = f"s-{seed}-{number}-{turn}"
        there = [each for each in snapshot_names(store) if each.startswith("s")]
        job = chance.choice(["pack", "pack", "layer", "squash", "remove", "gc", "export", "verify"])
        with contextlib.suppress(SnapshotInUse):
            if job == "pack" or not there:
                pack(store, name, Pages(image(seed, PAGES)), chunk_size=SMALL, threads=1)
            elif job == "layer":
                base = chance.choice(there)
                pages = Pages(image(seed, PAGES))
                pack(store, name, pages, base=base, chunk_size=SMALL, threads=1)
            elif job == "squash":
                squash(store, chance.choice(there))
            elif job == "remove":
                remove(store, chance.choice(there))
            elif job == "gc":
                gc(store, grace_s=0)
            elif job == "export":
                one = chance.choice(there)
                with contextlib.closing(open_reader(store.url)) as reader:
                    export_raw(open_image(store, one), reader, f"{folder}/out/{one}")
            else:
                verify(store)


@pytest.mark.timeout(300)
def test_commands_killed_at_any_moment_leave_a_sound_store(folder: Path) -> None:
    store = LocalObjects(folder / "store")
    (folder / "out").mkdir()
    pack(store, "kept-9", Pages(image(9, PAGES)), chunk_size=SMALL)
    chance = random.Random(11)
    for number in range(KILLS):
        read, write = os.pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_work, args=(str(folder), number, write)
        )
        child.start()
        os.close(write)
        assert os.read(read, 1) == b"x"
        os.close(read)
        time.sleep(chance.uniform(0, 0.15))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it failed before it was killed"
        child.close()
        assert verify(store).sound
        assert "kept-9" in snapshot_names(store)
        for name in snapshot_names(store):
            assert read_image(store, name) == whole(image(_seed(name), PAGES))
        for made in (folder / "out").iterdir():  # whole, or not there
            assert made.read_bytes() == whole(image(_seed(made.name), PAGES))
    pack(LocalObjects(store.url), "after-8", Pages(image(8, PAGES)), chunk_size=SMALL)
    gc(store, grace_s=0)
    assert no_garbage(store)
    assert os.listdir(folder / "store" / "tmp") == []


@pytest.mark.parametrize("kib", [4, 32, 48, 64, 96, 160, 320, 640, 1280])
def test_a_disk_of_any_size_has_a_whole_snapshot_or_none(tmp_path: Path, kib: int) -> None:
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True)
    try:
        store = LocalObjects(place / "store")
        for seed in range(4):
            try:
                pack(store, f"s-{seed}", Pages(image(seed, PAGES)), chunk_size=SMALL)
            except StoreFull:
                break
        else:
            assert kib >= 640  # four images of 160 KiB, of which a third is the same
        for name in snapshot_names(store):
            assert read_image(store, name) == whole(image(_seed(name), PAGES))
        assert verify(store).sound
        parts = place / "store" / "tmp"
        assert not parts.exists() or os.listdir(parts) == []
    finally:
        subprocess.run(["umount", place], check=True)
