"""What is kept for those who open the same snapshot again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from helpers.pages import PAGE
from userfault.kernel.errors import UserfaultError
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving import handover
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.kept import Kept
from userfault.snapshot.serving.table import Table
from userfault.snapshot.stores.opening import open_objects


def pages(first: int, count: int) -> bytes:
    """Pages that no rule makes, and so are stored."""
    return b"".join(random.Random(first + at).randbytes(PAGE) for at in range(count))


def test_the_one_not_asked_for_longest_goes_first() -> None:
    kept: Kept[str] = Kept(2)
    kept.put(1, "one")
    kept.put(2, "two")
    assert kept.get(1) == "one"
    kept.put(3, "three")
    assert (kept.get(1), kept.get(2), kept.get(3)) == ("one", None, "three")


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    """A store with `base`, and `layer` on it, whose page 3 is another."""
    store = tmp_path / "store"
    repack(store, "base", pages(1, 64), None)
    repack(store, "layer", pages(1, 3) + pages(1000, 1) + pages(5, 60), "base")
    return store


def repack(store: Path, name: str, data: bytes, base: str | None) -> None:
    image = store.parent / "image"
    image.write_bytes(data)
    source = FileInput(str(image))
    (store / "snapshots" / name).unlink(missing_ok=True)
    pack(open_objects(str(store)), name, source, base=base)
    source.close()


def table_of(store: Path, name: str) -> Table:
    resolved = handover.resolve(str(store), name)
    try:
        with open(resolved.fd, "rb", closefd=False) as file:
            return Table(file.read())
    finally:
        resolved.close()


def test_a_name_that_stands_for_another_snapshot_shows_that_one(layered: Path) -> None:
    first = table_of(layered, "layer")
    assert bytes(table_of(layered, "layer")._digests) == bytes(first._digests)
    repack(layered, "layer", pages(1, 32) + pages(2000, 32), "base")
    again = table_of(layered, "layer")
    assert bytes(again._digests) != bytes(first._digests)
    assert again.pages == 64


def test_a_layer_whose_base_has_gone_is_opened_no_more(layered: Path) -> None:
    objects = open_objects(str(layered))
    open_image(objects, "layer")
    (layered / "snapshots" / "base").unlink()
    with pytest.raises(UserfaultError):
        open_image(objects, "layer")


def test_parts_of_an_image_have_tables_of_their_own(layered: Path) -> None:
    whole = table_of(layered, "layer")
    resolved = handover.resolve(str(layered), "layer", offset=2 * PAGE, length=4 * PAGE)
    with open(resolved.fd, "rb") as file:
        part = Table(file.read())
    assert (whole.pages, part.pages) == (64, 4)
    assert whole.piece(3, 1) == part.piece(1, 1)
