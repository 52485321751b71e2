"""A manifest that is damaged hurts its own snapshot and those on it, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands import userfault
from snapshot.images import SMALL, Pages, image, read_image, whole
from userfault.snapshot.errors import FormatError, SnapshotInUse
from userfault.snapshot.format import manifest
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.layers import snapshot_names
from userfault.snapshot.stores.keys import SNAPSHOTS
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.describe import Summary, Unreadable, summaries
from userfault.snapshot.upkeep.remove import remove

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-7],
    "empty": lambda _: b"",
    "zeros": lambda data: bytes(len(data)),
    "first byte": lambda data: b"x" + data[1:],
    "last byte": lambda data: data[:-1] + b"x",
}


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    store = LocalObjects(tmp_path / "store")
    for seed, name in enumerate("abc"):
        pack(store, name, Pages(image(seed, 12)), chunk_size=SMALL)
    return store


def damage(store: LocalObjects, name: str, how: str = "cut") -> None:
    path = Path(store.url) / SNAPSHOTS / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGE)
def test_the_others_are_listed_and_the_damaged_is_told(store: LocalObjects, how: str) -> None:
    damage(store, "b", how)
    found = list(summaries(store))
    assert [each.name for each in found if isinstance(each, Summary)] == ["a", "c"]
    [bad] = [each for each in found if isinstance(each, Unreadable)]
    assert bad.name == "b"
    assert "damaged" in bad.problem


def test_ls_lists_the_others_and_fails(store: LocalObjects) -> None:
    damage(store, "a")
    done = userfault("ls", store.url)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["name", "b", "c"]
    assert "a is left out" in done.stderr
    done = userfault("ls", "--json", store.url)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [each["name"] for each in found["snapshots"]] == ["b", "c"]
    assert [each["name"] for each in found["damaged"]] == ["a"]


@pytest.mark.parametrize("how", DAMAGE)
def test_it_can_be_removed_also_where_others_are_damaged_too(store: LocalObjects, how: str) -> None:
    for name in "ab":
        damage(store, name, how)
    with pytest.raises(FormatError):  # what is damaged may lie on it
        remove(store, "c")
    for name in "ab":
        remove(store, name)
    assert snapshot_names(store) == ["c"]
    assert read_image(store, "c") == whole(image(2, 12))


def test_what_lies_on_a_damaged_one_keeps_it(store: LocalObjects) -> None:
    pack(store, "d", Pages(image(3, 12)), base="a", chunk_size=SMALL)
    damage(store, "a")
    with pytest.raises(SnapshotInUse, match="'d' lies on it"):
        remove(store, "a")


@pytest.mark.parametrize("text", [b"my own list of shops", b"\x89PNG\r\n\x1a\n and so on"])
def test_what_was_never_a_manifest_is_not_removed(store: LocalObjects, text: bytes) -> None:
    mine = Path(store.url) / SNAPSHOTS / "shops"
    mine.write_bytes(text)
    assert not text.startswith(manifest.MAGIC)
    with pytest.raises(FormatError, match="is no snapshot"):
        remove(store, "shops")
    assert mine.read_bytes() == text
