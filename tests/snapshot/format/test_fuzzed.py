"""Manifests, chunks and index pieces changed at random, below and above their digests.

The fuzzer runs for a minute in all; USERFAULT_FUZZ_SECONDS gives another time, USERFAULT_FUZZ_SEED
another seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from snapshot.forging import U32, U64, forged, sealed
from snapshot.images import HOLE, ZERO, Page, Pages, read_pages
from userfault.snapshot.errors import FormatError, NoSuchObject, NoSuchSnapshot
from userfault.snapshot.format import chunk, envelope, index, manifest
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import (
    Image,
    open_image,
)
from userfault.snapshot.stores import digests
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.verify import verify

SECONDS = float(os.environ.get("USERFAULT_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("USERFAULT_FUZZ_SEED", "1"))


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _extreme(data: bytearray, chance: random.Random) -> None:
    size = chance.choice([1, 2, 4, 8])
    at = chance.randrange(len(data))
    value = chance.choice([0, 1, 0x7F, 0x80, 0xFF, 1 << (8 * size - 1), (1 << 8 * size) - 1])
    data[at : at + size] = value.to_bytes(9, chance.choice(["little", "big"]))[:size]


def _cut(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice([1, 2, 4, 16, len(data)])]


def _again(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice([1, 4, 8, 64])]


def _noise(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at : at + 4] = chance.randbytes(chance.randrange(8))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """These bytes with a few things wrong."""
    wrong = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if wrong:
            chance.choice([_flip, _extreme, _cut, _again, _noise])(wrong, chance)
    return bytes(wrong)


def twisted(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """This body with one field of another value, of the right type mostly."""
    key = chance.choice(list(body))
    value = body[key]
    numbers = [0, 1, -1, PAGE, U32, U64, 1 << 46, chance.getrandbits(64)]
    if isinstance(value, bytes):
        value = mutated(value or b"\0", chance)
    elif isinstance(value, int):
        value = chance.choice(numbers)
    elif isinstance(value, list) and value:
        value = [*value, {**value[0], chance.choice(list(value[0])): chance.choice(numbers)}]
    elif isinstance(value, dict):
        value = {**value, "name": chance.choice(["", "..", "a/b", "x", "\0", "a" * 300])}
    return {**body, key: value}


def turns(share: float) -> Iterator[random.Random]:
    """One source of chance a turn, for a share of the fuzzer's time, and for 200 turns at least."""
    end = time.monotonic() + SECONDS * share
    turn = 0
    while turn < 200 or time.monotonic() < end:
        turn += 1
        yield random.Random(f"{SEED} {turn}")


def samples(tmp_path: Path) -> LocalObjects:
    """A store of two honest snapshots, one on the other."""
    store = LocalObjects(tmp_path / "samples")
    chance = random.Random(5)
    pages: list[Page] = []
    for _ in range(64):
        data: bytes = chance.choice([b"\7" * PAGE, chance.randbytes(PAGE), bytes(range(256)) * 16])
        pages.append(data if chance.random() < 0.6 else chance.choice([ZERO, HOLE]))
    regions = [Region(0x10000, 8 * PAGE, 0, 3, name="[heap]"), Region(0x40000, PAGE, 8 * PAGE)]
    pack(store, "a", Pages(pages, cut=100, regions=regions), chunk_size=4 * PAGE)
    pages[3:9] = [chance.randbytes(PAGE) for _ in range(6)]
    pack(store, "b", Pages(pages, regions=regions), base="a", chunk_size=4 * PAGE)
    return store


def sound(image: Image) -> None:
    """Whatever could be opened tiles its length, and stays within its chunks."""
    page = 0
    total = min(image.pages, 1 << 20)
    for extent in image.extents(0, total):
        assert extent.page == page
        assert extent.count > 0
        page += extent.count
        if extent.kind is Kind.CHUNK:
            assert extent.slot + extent.count <= image.chunks.pages(extent.chunk)
            assert image.chunks.raw_length(extent.chunk) <= chunk.MOST_RAW
        assert extent.kind is not Kind.PARENT
    assert page == total


def test_fuzzed_manifests_are_sound_or_refused(tmp_path: Path) -> None:
    store = samples(tmp_path)
    seeds = [store.get("snapshots/a"), store.get("snapshots/b")]
    bodies = [
        envelope.unseal(
            data, magic=manifest.MAGIC, version=1, most_raw=manifest.MOST_BODY, what="a"
        )
        for data in seeds
    ]
    fields = [msgspec.msgpack.decode(body) for body in bodies]
    accepted = refused = untold = 0
    for chance in turns(0.5):
        at = chance.randrange(2)
        how = chance.randrange(3)
        if how == 0:
            data = mutated(seeds[at], chance)
        elif how == 1:
            data = forged(mutated(bodies[at], chance), codec=0)
        else:
            data = sealed(twisted(fields[at], chance))
        store.put("snapshots/c", data)
        try:
            image = open_image(store, "c")
        except (FormatError, NoSuchSnapshot) as error:
            untold += not (error.cause and error.cure)
            refused += 1
            continue
        sound(image)
        assert manifest.decode(manifest.encode(image.manifest)).length == image.length
        accepted += 1
    assert accepted
    assert refused
    assert not untold


def test_fuzzed_chunks_hold_what_their_header_says_or_are_refused() -> None:
    chance = random.Random(3)
    seeds = [
        chunk.encode(chance.randbytes(2 * PAGE), 1).data,
        chunk.encode(bytes(range(256)) * 64, 1).data,
        chunk.encode(bytes(8 * PAGE), 19).data,
    ]
    accepted = refused = 0
    for turn in turns(0.25):
        data = mutated(turn.choice(seeds), turn)
        most = turn.choice([PAGE, 4 * PAGE, chunk.MOST_RAW])
        try:
            raw = chunk.decode(data, most)
        except FormatError:
            refused += 1
            continue
        assert len(raw) <= most
        assert len(raw) % PAGE == 0
        accepted += 1
        with pytest.raises(FormatError):
            digests.verify(blake3(seeds[0]).digest(), data + b"x")
    assert accepted
    assert refused


def test_fuzzed_pieces_of_the_index_never_hurt_a_pack(tmp_path: Path) -> None:
    """Changed below their digest they are left aside; a digest that is right vouches for them."""
    store = samples(tmp_path)
    keys = [listed.key for listed in store.list("index/")]
    good = {key: store.get(key) for key in keys}
    body = envelope.unseal(
        good[keys[0]], magic=index.MAGIC, version=1, most_raw=index.MOST_PIECE, what="a"
    )
    for chance in turns(0.125):
        try:
            for one in index.decode(mutated(good[keys[0]], chance)):
                assert len(one.digest) == 32
        except FormatError:
            pass
        again = envelope.seal(index.MAGIC, index.VERSION, mutated(body, chance))
        try:
            for one in index.decode(again):
                assert 0 < len(one.pages) <= 16 * 256
                assert len(one.digest) == 32
        except FormatError:
            pass


def test_a_fuzzed_store_never_crashes_who_reads_verifies_or_collects_it(tmp_path: Path) -> None:
    store = samples(tmp_path)
    wanted = {name: b"".join(read_pages(store, open_image(store, name))) for name in ("a", "b")}
    everything = {listed.key: store.get(listed.key) for listed in store.list()}
    for chance in turns(0.125):
        key = chance.choice(list(everything))
        store.put(key, mutated(everything[key], chance))
        damaged = store.get(key) != everything[key]
        for name, expected in wanted.items():
            try:
                read = b"".join(read_pages(store, open_image(store, name)))
            except (FormatError, NoSuchSnapshot, NoSuchObject):
                read = None
            assert read == expected or (damaged and read is None)
        assert verify(store).sound == (not damaged)
        try:
            gc(store, grace_s=0, dry_run=True)
        except FormatError:
            assert key.startswith("snapshots/")
        store.put(key, everything[key])
    assert verify(store).sound
