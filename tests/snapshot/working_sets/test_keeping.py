"""A set is kept beside its snapshot or in a cache, and merged; a foreign one is ignored."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from helpers.stores import memory, store
from userfault.snapshot.errors import StoreError
from userfault.snapshot.format.working_set import WorkingSet, decode, encode
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.working_sets import keeping, saving
from userfault.snapshot.working_sets.naming import of_file, of_snapshot, set_key
from userfault.snapshot.working_sets.place import HEAD_BYTES, Job, Place

TIE = bytes(range(32))
PAGES = 40


def notes(*touched: int, mark: int = 1) -> bytes:
    held = bytearray(HEAD_BYTES + PAGES)
    for page in touched:
        held[HEAD_BYTES + page] = mark
    return bytes(held)


def job(place: Place, **more: object) -> Job:
    options = {"tie": TIE, "page_size": 4096, "pages": PAGES, **more}
    return Job(place, **options)  # type: ignore[arg-type]


def loaded(place: Place) -> WorkingSet:
    held = keeping.load(place, TIE)
    assert held is not None
    return held


def in_store(tmp_path: Path) -> Place:
    store(tmp_path / "store", "one", memory(PAGES))
    return of_snapshot(str(tmp_path / "store"), "one", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return in_store(tmp_path)


def test_recordings_of_one_image_are_merged(place: Place) -> None:
    assert saving.save(job(place), notes(3, 4, 5)) == ""
    assert saving.save(job(place), notes(5, 6, mark=4)) == ""
    held = loaded(place)
    assert [list(pages) for pages in held.classes[:4]] == [[3, 4, 5], [], [], [6]]
    assert list(held.missed[0]) == [3, 4]
    assert held.restores == 2


def test_a_restore_that_touched_nothing_leaves_no_set(place: Place) -> None:
    saving.save(job(place), notes())
    assert keeping.load(place, TIE) is None


def test_a_set_that_was_of_little_use_is_recorded_anew(place: Place) -> None:
    saving.save(job(place, stale=True), b"")  # there is none: nothing to be marked
    assert keeping.load(place, TIE) is None
    saving.save(job(place), notes(1))
    saving.save(job(place, stale=True), b"")
    assert loaded(place).stale
    saving.save(job(place), notes(2))
    assert not loaded(place).stale


def test_the_set_of_another_image_is_ignored_and_replaced(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    saving.save(job(place, tie=bytes(32)), notes(1, 2))
    with caplog.at_level(logging.WARNING):
        assert keeping.load(place, TIE) is None
    assert "of another image" in caplog.text
    saving.save(job(place), notes(7))
    assert list(loaded(place).all) == [7]


def test_a_set_that_is_torn_is_ignored(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    saving.save(job(place), notes(1, 2))
    objects = open_objects(os.fsdecode(place.store))
    objects.put(set_key("one"), objects.get(set_key("one"))[:-1])
    with caplog.at_level(logging.WARNING):
        assert keeping.load(place, TIE) is None
    assert "is ignored" in caplog.text


def test_where_the_store_cannot_be_written_the_cache_has_it(place: Place) -> None:
    sets = Path(os.fsdecode(place.store)) / "sets"
    sets.symlink_to("/nowhere")  # nothing is written through links, by whomever
    where = saving.save(job(place), notes(1, 2))
    assert where.startswith(os.fsdecode(place.spare))
    assert list(loaded(place).all) == [1, 2]
    assert len(keeping.drop(of_snapshot("s3://bucket", "one", os.fsdecode(place.spare)), TIE)) == 1
    assert keeping.load(place, TIE) is None


def test_a_remote_store_is_not_written_to(tmp_path: Path) -> None:
    place = of_snapshot("s3://bucket/prefix", "one", str(tmp_path / "cache"))
    assert "remote" in saving.save(job(place), notes(9))
    assert list(loaded(place).all) == [9]


def test_without_a_place_it_is_an_error_that_says_so(tmp_path: Path) -> None:
    place = of_snapshot("s3://bucket/prefix", "one", None)
    with pytest.raises(StoreError, match="no cache folder"):
        saving.save(job(place), notes(9))
    assert os.listdir(tmp_path) == []


def test_a_file_of_the_users_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = of_file(str(tmp_path / "a.set"))
    saving.save(job(place), notes(1))
    before = (tmp_path / "a.set").stat().st_ino
    saving.save(job(place), notes(1))
    assert (tmp_path / "a.set").stat().st_ino != before
    assert os.listdir(tmp_path) == ["a.set"]
    assert decode((tmp_path / "a.set").read_bytes(), "it").restores == 2


@pytest.mark.parametrize("what", ["a folder", "/dev/zero", "a fifo", "text"])
def test_what_is_no_set_is_ignored(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.set"
    if what == "a folder":
        path.mkdir()
    elif what == "a fifo":
        os.mkfifo(path)
    elif what == "text":
        path.write_text("no set")
    else:
        path.symlink_to(what)
    with caplog.at_level(logging.WARNING):
        assert keeping.load(of_file(str(path)), TIE) is None
    assert "working set" in caplog.text


def test_a_snapshot_that_is_removed_takes_its_set_along(place: Place) -> None:
    saving.save(job(place), notes(1))
    remove(open_objects(os.fsdecode(place.store)), "one")
    assert not open_objects(os.fsdecode(place.store)).exists(set_key("one"))


def test_the_set_of_a_snapshot_that_was_removed_meanwhile_is_not_kept(place: Place) -> None:
    objects = open_objects(os.fsdecode(place.store))
    remove(objects, "one")
    saving.save(job(place), notes(1))
    assert not objects.exists(set_key("one"))


def test_a_store_that_was_removed_meanwhile_is_not_made_anew(place: Place) -> None:
    shutil.rmtree(os.fsdecode(place.store))
    saving.save(job(place), notes(1))
    assert not os.path.exists(os.fsdecode(place.store))


def test_a_set_survives_a_merge_with_a_set_of_other_pages(place: Place) -> None:
    saving.save(job(place), notes(1))
    held = loaded(place)
    keeping.keep(place, held)
    assert encode(loaded(place)) == encode(held)
