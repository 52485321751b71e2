"""`gc` and the dates of chunks: garbage goes whatever a clock once said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from helpers.stores import memory
from helpers.stores import store as packed
from userfault.snapshot.stores.keys import CHUNKS
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.verify import verify

DAY = 86_400.0


def dates(store: Objects) -> list[float]:
    return [listed.modified for listed in store.list(CHUNKS)]


def set_dates(store: Objects, when: float) -> None:
    for listed in store.list(CHUNKS):
        os.utime(f"{store.url}/{listed.key}", (when, when))


@pytest.fixture
def store(tmp_path: Path) -> Objects:
    """`kept`, and the chunks of one that was removed: all are dated ahead."""
    packed(tmp_path / "store", "kept", memory(100, seed=1))
    packed(tmp_path / "store", "gone", memory(300, seed=2))
    found = open_objects(tmp_path / "store")
    remove(found, "gone")
    set_dates(found, time.time() + 400 * DAY)
    return found


def test_garbage_that_is_dated_ahead_goes_a_grace_after_it_was_first_seen(store: Objects) -> None:
    first = gc(store)
    assert first.chunks == 0
    assert first.redated > 0
    assert sum(when < time.time() + DAY for when in dates(store)) == first.redated
    again = gc(store)
    assert (again.chunks, again.redated) == (0, 0)
    set_dates(store, time.time() - DAY)  # the grace has passed
    assert gc(store).chunks == first.redated
    assert verify(store).sound


def test_what_a_snapshot_refers_to_is_not_written_anew(store: Objects) -> None:
    kept = len(dates(store)) - gc(store).redated
    assert kept > 0
    assert sum(when > time.time() + DAY for when in dates(store)) == kept


def test_without_a_grace_dates_do_not_count(store: Objects) -> None:
    done = gc(store, grace_s=0)
    assert done.chunks > 0
    assert done.kept_young == done.redated == 0
    assert verify(store).sound


def test_a_dry_run_writes_nothing(store: Objects) -> None:
    before = dates(store)
    assert gc(store, dry_run=True).redated == 0
    assert dates(store) == before


def test_a_clock_that_is_a_little_behind_makes_nothing_old(store: Objects) -> None:
    set_dates(store, time.time() + 600)
    done = gc(store)
    assert (done.chunks, done.redated) == (0, 0)
    assert done.kept_young == done.kept
