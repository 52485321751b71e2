"""`userfault record`: what it shows, and what it does to a set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyroaring import BitMap

from cli.commands import userfault
from helpers.stores import memory, store
from userfault.snapshot.format.working_set import decode, encode, recorded
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects

PAGES = 50


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return store(tmp_path / "store", "one", memory(PAGES))


def put(snapshot: Path, pages: list[int]) -> Path:
    """A set of the snapshot, as a recording leaves it; its file."""
    objects = open_objects(snapshot.parent)
    tie = open_image(objects, "one").digest
    objects.put("sets/one", encode(recorded(tie, 4096, PAGES, [BitMap(), BitMap(pages)])))
    return snapshot.parent / "sets" / "one"


def test_a_set_is_shown(snapshot: Path) -> None:
    put(snapshot, [3, 4, 9])
    shown = userfault("record", "show", "--json", str(snapshot))
    found = json.loads(shown.stdout)
    assert found["schema"] == "userfault.record/1"
    assert (found["pages"], found["image_pages"], found["restores"]) == (3, PAGES, 1)
    assert found["classes"][1] == {"within_s": 0.125, "pages": 3}
    text = userfault("record", "show", str(snapshot)).stdout
    assert "3 pages of 4.0 KiB" in text
    assert "0.125 s" in text


def test_the_next_restore_is_recorded_on_demand(snapshot: Path) -> None:
    path = put(snapshot, [3])
    assert userfault("record", "again", str(snapshot)).returncode == 0
    assert decode(path.read_bytes(), "it").stale


def test_a_set_is_dropped(snapshot: Path) -> None:
    path = put(snapshot, [3])
    assert "removed" in userfault("record", "drop", str(snapshot)).stdout
    assert not path.exists()
    assert userfault("record", "show", str(snapshot)).returncode == 1


def test_a_set_is_merged_into_another(snapshot: Path, tmp_path: Path) -> None:
    path = put(snapshot, [3])
    (tmp_path / "other.set").write_bytes(path.read_bytes())
    put(snapshot, [7])
    done = userfault("record", "merge", str(tmp_path / "other.set"), str(snapshot))
    assert done.returncode == 0, done.stderr
    assert set(decode(path.read_bytes(), "it").all) == {3, 7}


def test_a_set_of_another_image_is_not_merged(snapshot: Path, tmp_path: Path) -> None:
    put(snapshot, [3])
    foreign = encode(recorded(bytes(32), 4096, PAGES, [BitMap([1])]))
    (tmp_path / "foreign.set").write_bytes(foreign)
    done = userfault("record", "merge", str(tmp_path / "foreign.set"), str(snapshot))
    assert done.returncode == 2
    assert "digest" in done.stderr


@pytest.mark.parametrize("by", ["file", "snapshot"])
def test_a_store_is_laid_out_by_a_set(snapshot: Path, tmp_path: Path, by: str) -> None:
    path = put(snapshot, [PAGES - 1, 2])
    image = tmp_path / "image"
    image.write_bytes(memory(PAGES))
    order = path if by == "file" else snapshot
    place = tmp_path / "ordered" / "one"
    done = userfault("pack", str(image), str(place), "--order", str(order))
    assert done.returncode == 0, done.stderr
    assert "50 pages" in done.stdout
