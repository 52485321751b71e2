"""Packing, layers, leases and collecting in real object stores: the same as in a folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snapshot.images import Page, Pages, content, read_image
from snapshot.servers.s3 import S3
from userfault.snapshot.errors import SnapshotInUse
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.keys import CHUNKS, LEASES
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

pytestmark = pytest.mark.xdist_group("stores")

SMALL = 4 * PAGE


def image(seed: int, count: int = 40) -> list[Page]:
    return [random.Random((seed << 32) + n).randbytes(PAGE) for n in range(count)]


def whole(pages: list[Page]) -> bytes:
    return b"".join(map(content, pages))


def keys(store: Objects, prefix: str = "") -> set[str]:
    return {listed.key for listed in store.list(prefix)}


@pytest.fixture
def store(s3: S3, request: pytest.FixtureRequest) -> Objects:
    """A prefix of its own in each service."""
    return open_objects(f"s3://{s3.bucket}/{request.node.originalname}")


def test_snapshots_live_in_an_object_store(store: Objects) -> None:
    pages = image(1)
    pack(store, "a", Pages(pages), chunk_size=SMALL)
    pages[7] = random.Random(99).randbytes(PAGE)
    made = pack(store, "b", Pages(pages), base="a", chunk_size=SMALL)
    assert (made.parent, made.stored) == (39, 1)
    assert pack(store, "c", Pages(image(1)), chunk_size=SMALL).shared == 40
    with pytest.raises(SnapshotInUse):
        pack(store, "a", Pages(pages))
    with pytest.raises(SnapshotInUse, match="lies on it"):
        remove(store, "a")
    squash(store, "b")
    remove(store, "a")
    remove(store, "c")
    assert gc(store, grace_s=0).kept == 11
    assert read_image(store, "b") == whole(pages)
    assert verify(store).sound
    remove(store, "b")
    gc(store, grace_s=0)
    assert not keys(store)


def test_of_two_packs_of_one_name_at_once_one_wins(store: Objects) -> None:
    results: list[object] = []

    def run(seed: int) -> None:
        try:
            pack(store, "a", Pages(image(seed)), chunk_size=SMALL)
            results.append(seed)
        except SnapshotInUse as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (seed for seed in results if isinstance(seed, int))
    assert read_image(store, "a") == whole(image(winner))
    gc(store, grace_s=0)
    assert len(keys(store, CHUNKS)) == 10
    assert verify(store).sound


def test_a_pack_that_was_killed_leaves_nothing_to_the_next(store: Objects) -> None:
    code = (
        "import os, signal, sys\n"
        "from snapshot.images import Pages\n"
        "from snapshot.stores.test_snapshots import SMALL, image\n"
        "from userfault.snapshot.stores.opening import open_objects\n"
        "from userfault.snapshot.packing.pack import pack\n"
        "pages = Pages(image(1))\n"
        "pages.finish = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pack(open_objects(sys.argv[1]), 'a', pages, chunk_size=SMALL)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code, store.url],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == -9
    assert len(keys(store, CHUNKS)) == 10
    assert keys(store, LEASES)
    pack(store, "b", Pages(image(2)), chunk_size=SMALL)
    assert len(keys(store, CHUNKS)) == 10
    assert not keys(store, LEASES)
    assert read_image(store, "b") == whole(image(2))
