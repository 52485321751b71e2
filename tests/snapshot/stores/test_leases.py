"""Leases: whose work holds others up, and for how long."""

from __future__ import annotations

import os
import time

import msgspec
import pytest

from snapshot.images import SMALL, Pages, image, read_image, whole
from snapshot.watched import Watched, keys, no_garbage
from userfault.snapshot.errors import SnapshotInUse, StoreError
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores import leases
from userfault.snapshot.stores.keys import LEASES, SNAPSHOTS
from userfault.snapshot.stores.leases import Holder
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash


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
