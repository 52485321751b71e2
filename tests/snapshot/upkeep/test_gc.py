"""What `gc` removes, what it leaves, and that it stops for whoever works in the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest

from snapshot.images import SMALL, Pages, image, read_image, whole
from snapshot.watched import Watched, keys, no_garbage
from userfault.snapshot.errors import FormatError, SnapshotInUse, StoreError, StoreFull
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.keys import CHUNKS, INDEX, LEASES, SNAPSHOTS
from userfault.snapshot.stores.leases import Lease
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.verify import verify


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
