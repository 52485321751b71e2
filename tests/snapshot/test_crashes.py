"""Packs that are killed, fail, meet a full disk, or meet each other: the store stays sound."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from helpers.skips import need_root
from snapshot.images import Page, Pages, content, read_image
from userfault.snapshot.errors import FormatError, SnapshotInUse, StoreError, StoreFull
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.packing.sweep import names, referred
from userfault.snapshot.stores import leases
from userfault.snapshot.stores.keys import CHUNKS, INDEX, LEASES, SNAPSHOTS, chunk_digest
from userfault.snapshot.stores.leases import Holder, Lease
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

SHM = "/dev/shm"
SMALL = 4 * PAGE


def image(seed: int, count: int = 200) -> list[Page]:
    """Pages of its own; every third one is in the image of any other seed too."""
    return [
        random.Random(n if n % 3 == 0 else (seed << 32) + n).randbytes(PAGE) for n in range(count)
    ]


def whole(pages: list[Page]) -> bytes:
    return b"".join(map(content, pages))


def keys(store: LocalObjects, prefix: str = "") -> set[str]:
    return {listed.key for listed in store.list(prefix)}


def no_garbage(store: LocalObjects) -> bool:
    """Whether every chunk is referred to and nobody's lease is left."""
    marked = referred(store)
    return not keys(store, LEASES) and all(
        chunk_digest(key) in marked for key in keys(store, CHUNKS)
    )


class Watched(LocalObjects):
    """A folder that calls `before` with the key and the number of each put."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.puts = 0
        self.before: Callable[[str, int], None] = lambda _key, _number: None

    def put(self, key: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        self.puts += 1
        self.before(key, self.puts)
        super().put(key, data, new=new)


@pytest.fixture
def store() -> Iterator[Watched]:
    """In memory where there is such a file system: these tests make thousands of durable writes."""
    with tempfile.TemporaryDirectory(dir=SHM if os.path.isdir(SHM) else None) as folder:
        yield Watched(Path(folder) / "store")


_CHILD = """
import sys
from snapshot.images import Pages
from snapshot.test_crashes import SMALL, image
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
        if name in names(store):
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


def test_a_failing_pack_leaves_chunks_to_a_pack_that_runs(store: Watched) -> None:
    other = Lease(store, "pack", name="other")
    store.before = _full_at_the_index
    with pytest.raises(StoreFull):
        pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    store.before = lambda _key, _number: None
    assert keys(store, CHUNKS)
    with pytest.raises(SnapshotInUse, match="a pack of other"):
        gc(store, grace_s=0)
    other.release()
    gc(store, grace_s=0)
    assert not keys(store)


def _full_at_the_index(key: str, _number: int) -> None:
    if key.startswith(INDEX):
        raise StoreFull("no room")


def test_gc_stops_for_a_pack_and_a_pack_waits_for_gc(store: Watched) -> None:
    pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    remove(store, "a")
    stopped: list[str] = []

    def collect(key: str, _number: int) -> None:
        if key.startswith((CHUNKS, INDEX, SNAPSHOTS)):
            with pytest.raises(SnapshotInUse):
                gc(LocalObjects(store.url), grace_s=0)
            stopped.append(key)

    store.before = collect
    # All its pages are in chunks that nobody refers to any more.
    made = pack(store, "b", Pages(image(1, 40)), chunk_size=SMALL)
    assert stopped
    assert made.shared == 40
    assert read_image(store, "b") == whole(image(1, 40))

    sweeper = Lease(store, "gc", shares=False)
    store.before = lambda _key, _number: None
    thread = threading.Thread(
        target=lambda: pack(store, "c", Pages(image(2, 40)), chunk_size=SMALL)
    )
    thread.start()
    chunks = keys(store, CHUNKS)
    time.sleep(0.2)
    assert keys(store, CHUNKS) == chunks
    sweeper.release()
    thread.join()
    assert read_image(store, "c") == whole(image(2, 40))


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
    assert set(names(store)) == set(wanted)
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


def test_gc_leaves_what_is_young_and_tells_what_it_would_do(store: Watched) -> None:
    pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    remove(store, "a")
    kept = gc(store)
    assert (kept.chunks, kept.kept_young) == (0, 10)
    would = gc(store, grace_s=0, dry_run=True)
    assert (would.chunks, len(keys(store, CHUNKS))) == (10, 10)
    assert gc(store, grace_s=0).chunk_bytes == would.chunk_bytes
    assert not keys(store)


def test_gc_removes_nothing_while_a_manifest_cannot_be_read(store: Watched) -> None:
    pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    pack(store, "b", Pages(image(2, 40)), chunk_size=SMALL)
    remove(store, "b")
    good = store.get("snapshots/a")
    store.put("snapshots/a", good[:-7])
    before = keys(store)
    with pytest.raises(FormatError, match="snapshot 'a' is damaged"):
        gc(store, grace_s=0)
    assert keys(store) == before
    store.put("snapshots/a", good)
    gc(store, grace_s=0)
    assert read_image(store, "a") == whole(image(1, 40))
    assert no_garbage(store)


def test_a_gc_that_fails_at_any_moment_leaves_a_sound_store(store: Watched) -> None:
    class Broken(LocalObjects):
        left = 0

        def delete(self, keys: Iterable[str]) -> None:
            for key in keys:
                Broken.left -= 1
                if Broken.left < 0 and not key.startswith(LEASES):
                    raise StoreError("the store is gone", cause="a test")
                super().delete([key])

    kept = image(1, 40)
    pack(store, "kept", Pages(kept), chunk_size=SMALL)
    for moment in range(12):
        pack(store, "gone", Pages(image(2, 60)), chunk_size=SMALL)
        remove(store, "gone")
        Broken.left = moment
        with pytest.raises(StoreError):
            gc(Broken(store.url), grace_s=0)
        assert verify(store).sound
        # Whatever the index still promises is there.
        pack(store, "again", Pages(image(2, 60)), chunk_size=SMALL)
        assert read_image(store, "again") == whole(image(2, 60))
        remove(store, "again")
        gc(store, grace_s=0)
        assert no_garbage(store)
        assert read_image(store, "kept") == whole(kept)


def test_a_lease_from_elsewhere_counts_until_it_is_old(store: Watched) -> None:
    body = msgspec.msgpack.encode(Holder("pack", name="x", boot="another machine", pid=1))
    lease = f"{LEASES}{0x123:024x}"
    store.put(f"{lease}.share", body)
    store.put(f"{lease}.sweep", body)
    with pytest.raises(SnapshotInUse):
        gc(store)
    old = time.time() - leases.EXPIRY - 5
    for part in ("share", "sweep"):
        os.utime(f"{store.url}/{lease}.{part}", (old, old))
    assert gc(store).dead_leases == 1
    assert not keys(store, LEASES)


@pytest.mark.parametrize("years", [-3, 3])
def test_no_lease_of_another_boot_blocks_by_its_date(store: Watched, years: int) -> None:
    """A clock that was set back leaves leases of the time to come."""
    pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    when = time.time() + years * 365 * 86400
    for doing, parts in (("pack", ("share", "sweep")), ("gc", ("sweep",))):
        body = msgspec.msgpack.encode(Holder(doing, name="a", boot="before", pid=1, started=1))
        for part in parts:
            key = f"{LEASES}{len(doing):024x}.{part}"
            store.put(key, body)
            os.utime(f"{store.url}/{key}", (when, when))
    pack(store, "b", Pages(image(2, 40)), base="a", chunk_size=SMALL)
    squash(store, "b")
    remove(store, "a")
    gc(store, grace_s=0)
    assert no_garbage(store)
    assert read_image(store, "b") == whole(image(2, 40))


@pytest.mark.parametrize("ahead", [0, 300])
def test_a_lease_that_may_be_a_living_holders_is_told_with_its_end(
    store: Watched, ahead: float
) -> None:
    pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    body = msgspec.msgpack.encode(Holder("pack", name="x", base="a", boot="elsewhere", pid=7))
    when = time.time() + ahead
    for part in ("share", "sweep"):
        store.put(f"{LEASES}{1:024x}.{part}", body)
        os.utime(f"{store.url}/{LEASES}{1:024x}.{part}", (when, when))
    for work in (lambda: gc(store), lambda: remove(store, "a")):
        with pytest.raises(SnapshotInUse, match=r"process 7.*counts as dead in \d+ s"):
            work()


def test_a_pack_that_stood_still_too_long_gives_up(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0
    real = leases._now
    monkeypatch.setattr(leases, "_now", lambda: real() + passed)

    class Suspended(Pages):
        def finish(self) -> dict[str, str]:
            nonlocal passed
            passed = leases.EXPIRY
            return {}

    with pytest.raises(StoreError, match="run it again"):
        pack(store, "a", Suspended(image(1, 40)), chunk_size=SMALL)
    assert not keys(store)

    def suspend(key: str, _number: int) -> None:
        nonlocal passed
        passed += leases.EXPIRY if key.startswith(SNAPSHOTS) else 0

    store.before = suspend
    with pytest.raises(StoreError, match="run it again"):
        pack(store, "a", Pages(image(1, 40)), chunk_size=SMALL)
    assert not keys(store, SNAPSHOTS)
