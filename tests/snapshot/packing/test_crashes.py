"""Packs that are killed, fail, meet a full disk, or meet each other: the store stays sound."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.skips import need_root
from snapshot.images import SMALL, Pages, image, read_image, whole
from snapshot.watched import Watched, keys, no_garbage
from userfault.snapshot.errors import SnapshotInUse, StoreFull
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.layers import snapshot_names
from userfault.snapshot.stores.keys import SNAPSHOTS
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

_CHILD = """
import sys
from snapshot.images import SMALL, Pages, image
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.packing.pack import pack
pages = Pages(image(int(sys.argv[2]), 1000))
print("go", flush=True)
pack(LocalObjects(sys.argv[1]), "killed-" + sys.argv[2], pages, chunk_size=SMALL)
"""


def test_a_pack_killed_at_any_moment_leaves_a_sound_store(store: Watched) -> None:
    pack(store, "first", Pages(image(0)), chunk_size=SMALL)
    chance = random.Random(7)
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, sys.path)])
    killed = 0
    for seed in range(1, 11):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, store.url, str(seed)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(chance.uniform(0, 0.4))
            child.kill()
        name = f"killed-{seed}"
        assert verify(store).sound
        assert read_image(store, "first") == whole(image(0))
        if name in snapshot_names(store):
            assert read_image(store, name) == whole(image(seed, 1000))
            continue
        killed += 1
        if seed % 2:  # the same again takes up what is there
            pack(store, name, Pages(image(seed, 1000)), chunk_size=SMALL)
            assert read_image(store, name) == whole(image(seed, 1000))
        else:  # another one cleans up
            pack(store, f"next-{seed}", Pages(image(0)), chunk_size=SMALL)
        assert no_garbage(store)
        assert verify(store).sound
    assert killed


def test_a_pack_that_fails_at_any_put_leaves_the_store_as_it_was(store: Watched) -> None:
    pack(store, "first", Pages(image(0, 40)), chunk_size=SMALL)
    before = keys(store)

    class StopError(Exception):
        pass

    for fails_at in range(1, 12):
        store.puts = 0

        def refuse(_key: str, number: int, fails_at: int = fails_at) -> None:
            if number == fails_at:
                raise StoreFull("no room", cause="a test")

        store.before = refuse
        with pytest.raises(StoreFull):
            pack(store, "second", Pages(image(1, 40)), chunk_size=SMALL, threads=1)
        store.before = lambda _key, _number: None
        assert keys(store) == before
    pages = Pages(image(1, 40))
    pages.finish = _raise(StopError())  # type: ignore[method-assign]
    with pytest.raises(StopError):
        pack(store, "second", pages, chunk_size=SMALL)
    assert keys(store) == before
    assert verify(store).sound


def _raise(error: Exception) -> Callable[[], dict[str, str]]:
    def finish() -> dict[str, str]:
        raise error

    return finish


def test_a_full_disk_says_so_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    try:
        store = LocalObjects(place / "store")
        pack(store, "first", Pages(image(0, 40)), chunk_size=SMALL)
        before = keys(store)
        with pytest.raises(StoreFull, match="free space"):
            pack(store, "second", Pages(image(1, 800)), chunk_size=SMALL)
        assert keys(store) == before
        assert verify(store).sound
        pack(store, "third", Pages(image(2, 40)), chunk_size=SMALL)
        assert read_image(store, "third") == whole(image(2, 40))
    finally:
        subprocess.run(["umount", place], check=True)


def test_of_two_packs_of_one_name_one_wins_and_the_other_is_told(store: Watched) -> None:
    both = threading.Barrier(2)
    results: list[object] = []

    class Slow(Pages):
        def finish(self) -> dict[str, str]:
            both.wait(30)
            return {}

    def run(seed: int) -> None:
        mine = LocalObjects(store.url)
        try:
            pack(mine, "a", Slow(image(seed, 40)), chunk_size=SMALL)
            results.append(seed)
        except SnapshotInUse as error:
            both.abort()
            results.append(error)
        except threading.BrokenBarrierError:
            results.append(None)

    # Both are past the look at who else is there before either has finished; or one was told
    # then already, which breaks the barrier, and so the other one too.
    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [result for result in results if isinstance(result, SnapshotInUse)]
    assert len(told) == 1
    winner = next((seed for seed in results if isinstance(seed, int)), None)
    if winner is not None:
        assert read_image(store, "a") == whole(image(winner, 40))
    assert verify(store).sound
    gc(store, grace_s=0)
    assert no_garbage(store)


def test_the_manifest_decides_when_both_packs_got_that_far(store: Watched) -> None:
    def other_first(key: str, _number: int) -> None:
        if key.startswith(SNAPSHOTS):
            store.before = lambda _key, _number: None
            LocalObjects(store.url).put(key, b"the other's", new=True)

    store.before = other_first
    with pytest.raises(SnapshotInUse, match="already"):
        pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    assert store.get("snapshots/a") == b"the other's"


def test_everything_at_once_keeps_every_snapshot(store: Watched) -> None:
    """Packs, layers, squashes, removals and collections by three threads, in random order."""
    wanted: dict[str, bytes] = {}
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        mine = LocalObjects(store.url)
        try:
            for turn in range(12):
                _one_step(mine, chance, f"s{seed}-{turn}", wanted, lock)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert verify(store).sound
    assert set(snapshot_names(store)) == set(wanted)
    for name, expected in wanted.items():
        assert read_image(store, name) == expected
    gc(store, grace_s=0)
    assert no_garbage(store)
    assert verify(store).sound


def _one_step(
    store: LocalObjects,
    chance: random.Random,
    name: str,
    wanted: dict[str, bytes],
    lock: threading.Lock,
) -> None:
    with lock:
        known = list(wanted)
    pages = image(chance.randrange(4), 30)
    pages[chance.randrange(30)] = chance.randbytes(PAGE)
    step = chance.choice(["pack", "pack", "layer", "layer", "squash", "remove", "gc", "gc"])
    try:
        if step == "gc":
            gc(store, grace_s=0)
        elif step == "pack" or not known:
            pack(store, name, Pages(pages), chunk_size=SMALL, threads=1)
            wanted[name] = whole(pages)
        elif step == "layer":
            pack(store, name, Pages(pages), base=chance.choice(known), chunk_size=SMALL, threads=1)
            wanted[name] = whole(pages)
        elif step == "squash":
            squash(store, chance.choice(known))
        else:
            with lock:  # so that nobody chooses a name that is on its way out
                victim = chance.choice(known)
                if victim in wanted:
                    remove(store, victim)
                    del wanted[victim]
    except SnapshotInUse:
        pass  # somebody else was first, and nothing has changed
