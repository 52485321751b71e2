"""Layers that do not belong together, do not end, or are too many: refused, in bounded time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snapshot.forging import honest, sealed, u32, u64
from snapshot.images import Pages
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchSnapshot
from userfault.snapshot.format import envelope
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import (
    SQUASHING,
    USUAL,
    Limits,
    check_layers,
    open_image,
)
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.squash import squash


def put(store: LocalObjects, name: str, **changes: Any) -> bytes:
    """Store a forged manifest; its digest."""
    data = sealed(honest(**changes))
    store.put(f"snapshots/{name}", data)
    return envelope.digest_of(data)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


ON_BASE = {"kinds": bytes([Kind.PARENT, Kind.WORD, Kind.CHUNK])}


def test_bases_that_do_not_end_are_refused(store: LocalObjects) -> None:
    put(store, "a", base={"name": "a", "digest": bytes(32)})
    with pytest.raises(FormatError, match="do not end"):
        open_image(store, "a")
    digest = put(store, "layer-0")
    for number in range(1, USUAL.layers + 1):
        base = {"name": f"layer-{number - 1}", "digest": digest}
        digest = put(store, f"layer-{number}", base=base, **ON_BASE)
    assert len(open_image(store, f"layer-{USUAL.layers - 1}").layers) == USUAL.layers
    last = f"layer-{USUAL.layers}"
    with pytest.raises(FormatError, match="squash"):
        open_image(store, last)
    assert len(open_image(store, last, SQUASHING).layers) == USUAL.layers + 1
    squash(store, last, "flat")  # the cure that is told
    assert len(open_image(store, "flat").layers) == 1


def test_pages_that_the_base_does_not_have_are_refused(store: LocalObjects) -> None:
    digest = put(store, "a", length=PAGE, counts=u32(1), kinds=b"\1", values=u64(0))
    put(store, "b", base={"name": "a", "digest": digest}, **ON_BASE)
    with pytest.raises(FormatError, match="its base does not have"):
        open_image(store, "b")


def test_a_base_that_is_another_one_or_none_is_told(store: LocalObjects) -> None:
    put(store, "b", base={"name": "a", "digest": bytes(32)}, **ON_BASE)
    with pytest.raises(NoSuchSnapshot, match="the base 'a' of snapshot 'b' is gone"):
        open_image(store, "b")
    put(store, "a")
    with pytest.raises(FormatError, match="not the one it was made on"):
        open_image(store, "b")


def test_layers_cannot_multiply_what_they_hold(store: LocalObjects) -> None:
    """A base of many runs, which each of a layer's runs could refer to again, is walked once."""
    count = 50_000
    tiles = {"length": count * PAGE, "counts": u32(*[1] * count)}
    digest = put(store, "a", **tiles, kinds=bytes([0, 1] * (count // 2)), values=bytes(8 * count))
    put(
        store,
        "b",
        **tiles,
        kinds=bytes([2] * count),
        values=bytes(8 * count),
        base={"name": "a", "digest": digest},
    )
    assert len(open_image(store, "b").runs) == count


def test_a_chain_costs_what_is_seen_of_it_and_not_its_layers_times_its_base(
    store: LocalObjects,
) -> None:
    count, layers = 50_000, 200
    tiles = {"length": count * PAGE, "counts": u32(*[1] * count)}
    digest = put(store, "0", **tiles, kinds=bytes([0, 1] * (count // 2)), values=bytes(8 * count))
    for number in range(1, layers + 1):  # each shows a page of its own, and all else of its base
        digest = put(
            store,
            f"{number}",
            length=count * PAGE,
            counts=u32(number, 1, count - number - 1),
            kinds=bytes([2, 3, 2]),
            values=u64(0, number, 0),
            base={"name": f"{number - 1}", "digest": digest},
        )
    bound = Limits(layers + 1, count + 6 * layers)
    image = open_image(store, f"{layers}", bound)
    assert sum(extent.word for extent in image.extents(0, count)) == layers * (layers + 1) // 2
    with pytest.raises(FormatError, match=f"more than {count} runs of pages"):
        open_image(store, f"{layers}", Limits(layers + 1, count))


def test_layers_that_would_take_too_long_to_open_are_not_opened_and_not_made(
    store: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, "0", length=PAGE, counts=u32(1), kinds=b"\1", values=u64(0))
    for number in range(1, 5):
        digest = put(
            store,
            f"{number}",
            length=PAGE,
            counts=u32(1),
            kinds=b"\3",
            values=u64(number),
            base={"name": f"{number - 1}", "digest": digest},
        )
    for bound, cause in (
        (Limits(layers=4), "more than 4"),
        (Limits(runs=4), "runs"),
        (Limits(chunks=4), "chunks"),
    ):
        with pytest.raises(FormatError, match=f"too many to resolve.*{cause}.*squash"):
            open_image(store, "4", bound)
    monkeypatch.setattr(check_layers, "__defaults__", (Limits(layers=5),))
    with pytest.raises(UsageError, match=r"cannot pack 'new' on '4'.*squash 4"):
        pack(store, "new", Pages([b"x" * PAGE]), base="4")
    assert not store.exists("snapshots/new")
