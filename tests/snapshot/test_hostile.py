"""Bytes that no honest writer made: each is refused with its cause and cure, in bounded memory.

Two parts: what an attacker would think of, one by one; and a fuzzer, which changes manifests,
chunks and pieces of the index at random, below and above their digests.  The fuzzer runs for a
minute in all; USERFAULT_FUZZ_SECONDS gives another time, USERFAULT_FUZZ_SEED another seed.
"""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3

from snapshot.images import HOLE, ZERO, Page, Pages, read_pages
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchObject, NoSuchSnapshot
from userfault.snapshot.format import chunk, envelope, index, manifest
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import (
    SQUASHING,
    USUAL,
    Image,
    Limits,
    check_layers,
    open_image,
)
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

SECONDS = float(os.environ.get("USERFAULT_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("USERFAULT_FUZZ_SEED", "1"))
MIB = 1 << 20

U32, U64 = (1 << 32) - 1, (1 << 64) - 1


def honest(**changes: Any) -> dict[str, Any]:
    """The body of a small manifest: two pages of zeros, a word, three pages in one chunk."""
    body: dict[str, Any] = {
        "length": 6 * PAGE,
        "page_size": PAGE,
        "kind": "raw",
        "created": 1_700_000_000,
        "counts": u32(2, 1, 3),
        "kinds": bytes([Kind.ZERO, Kind.WORD, Kind.CHUNK]),
        "values": u64(0, 7, 0),
        "digests": bytes(32),
        "stored": u32(100),
        "pages": struct.pack("<H", 3),
    }
    return body | changes


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def sealed(body: object) -> bytes:
    """A manifest of this body, with a digest that is right."""
    return envelope.seal(manifest.MAGIC, manifest.VERSION, msgspec.msgpack.encode(body))


def forged(
    body: bytes, *, version: int = 1, codec: int = 1, stored: int = -1, raw: int = -1
) -> bytes:
    """An envelope that says what it is told to, with a digest that is right."""
    fields = struct.pack(
        "<8sHBBQQ",
        manifest.MAGIC,
        version,
        codec,
        0,
        len(body) if stored < 0 else stored,
        len(body) if raw < 0 else raw,
    )
    return fields + blake3(fields + body).digest() + bytes(4) + body


def region(**changes: Any) -> dict[str, Any]:
    return {"start": 0x1000, "length": PAGE, "offset": 0} | changes


BAD_BODIES = {
    "more pages than runs": honest(length=7 * PAGE),
    "fewer pages than runs": honest(length=5 * PAGE),
    "a length that nothing can hold": honest(length=1 << 62),
    "a negative length": honest(length=-1),
    "a length beyond 64 bits": honest(length=U64),
    "huge counts": honest(counts=u32(U32, U32, U32)),
    "counts that add up around 2**64": honest(counts=u32(2, 1, U32), length=(3 + U32) * PAGE),
    "a run of no pages": honest(counts=u32(6, 0, 0)),
    "columns of different lengths": honest(kinds=bytes(2)),
    "half a count": honest(counts=u32(2, 1, 3) + b"x"),
    "a kind from the future": honest(kinds=bytes([0, 3, 5])),
    "a slot behind the chunks": honest(values=u64(0, 7, 1)),
    "a slot that wraps around": honest(values=u64(0, 7, U64)),
    "zeros with a value": honest(values=u64(1, 7, 0)),
    "a parent without a base": honest(kinds=bytes([Kind.PARENT, 3, 4])),
    "a chunk of no pages": honest(pages=struct.pack("<H", 0)),
    "a chunk of too many pages": honest(pages=struct.pack("<H", 257)),
    "a chunk stored in nothing": honest(stored=u32(12)),
    "a chunk stored in more than it holds": honest(stored=u32(3 * PAGE + 13)),
    "more digests than chunks": honest(digests=bytes(64)),
    "half a digest": honest(digests=bytes(31)),
    "pages of another size": honest(page_size=16384),
    "a base above the store": honest(base={"name": "../../etc/passwd", "digest": bytes(32)}),
    "a base with a slash": honest(base={"name": "a/b", "digest": bytes(32)}),
    "a base without a name": honest(base={"name": "", "digest": bytes(32)}),
    "a base with a short digest": honest(base={"name": "a", "digest": b"x"}),
    "a region behind the image": honest(regions=[region(offset=6 * PAGE)]),
    "a region longer than the image": honest(regions=[region(length=1 << 60)]),
    "a region before the image": honest(regions=[region(offset=-PAGE)]),
    "a region behind all addresses": honest(regions=[region(start=(1 << 63) - 1)]),
    "a region of half a page": honest(regions=[region(length=100)]),
    "a region of nothing": honest(regions=[region(length=0)]),
    "a region with a long name": honest(regions=[region(name="x" * 100_000)]),
    "text where numbers belong": honest(length="many"),
    "nothing": {},
    "a list": [1, 2, 3],
    "a number": 7,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_manifest_that_contradicts_itself_is_refused(body: object) -> None:
    with pytest.raises(FormatError) as caught:
        manifest.decode(sealed(body), "the manifest of 'x'")
    assert caught.value.what == "the manifest of 'x' is damaged"
    assert caught.value.cause
    assert caught.value.cure


def test_the_honest_one_is_read() -> None:
    read = manifest.decode(sealed(honest()))
    assert (read.pages, len(read.runs), read.chunks.slots) == (6, 3, 3)


def test_unknown_fields_are_left_aside_and_unknown_versions_refused() -> None:
    assert manifest.decode(sealed(honest(later=[1, {"a": b"b"}]))).pages == 6
    body = msgspec.msgpack.encode(honest())
    with pytest.raises(FormatError, match="newer userfault"):
        manifest.decode(forged(body, version=2, codec=0))


def test_every_truncation_and_every_flipped_bit_of_a_manifest_is_seen() -> None:
    data = sealed(honest(regions=[region()], about={"a": "b"}))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            manifest.decode(data[:length])
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1 << at % 8
        with pytest.raises(FormatError):
            manifest.decode(bytes(wrong))
    with pytest.raises(FormatError):
        manifest.decode(data + b"x")


def _bombs() -> Iterator[tuple[str, Callable[[], object]]]:
    squeezed = zstandard.ZstdCompressor().compress(bytes(512 * MIB))
    yield "an honest bomb", lambda: manifest.decode(forged(squeezed, raw=512 * MIB))
    yield "a frame of another length", lambda: manifest.decode(forged(squeezed, raw=64))
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB))
    yield "a frame without a length", lambda: manifest.decode(forged(endless, raw=64))
    yield "more than a manifest", lambda: manifest.decode(forged(b"x" * 99, raw=1 << 60))
    full = chunk.HEADER.pack(chunk.MAGIC, 1, 1, 0, PAGE)
    yield "a chunk that holds more", lambda: chunk.decode(full + squeezed)
    yield "a chunk without a length", lambda: chunk.decode(full + endless)
    huge = chunk.HEADER.pack(chunk.MAGIC, 1, 1, 0, 512 * MIB)
    yield "a chunk that says so", lambda: chunk.decode(huge + squeezed, 1 << 40)
    many = msgspec.msgpack.encode(honest())[1:]
    for name, start in (("list", b"\xdd"), ("map", b"\xdf"), ("bytes", b"\xc6")):
        body = b"\x8b" + many + b"\xa7regions" + start + b"\xff\xff\xff\xff" + bytes(99)
        yield f"a {name} of 2**32", partial(manifest.decode, forged(body, codec=0))
    deep = b"\x8b" + many + b"\xa5later" + b"\x91" * 100_000
    yield "lists in lists", lambda: manifest.decode(forged(deep, codec=0))
    rows = struct.pack("<I", U32) + bytes(1000)
    piece = envelope.seal(index.MAGIC, index.VERSION, rows)
    yield "a piece of 2**32 chunks", lambda: index.decode(piece)


BOMBS = dict(_bombs())


@pytest.mark.parametrize("decode", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_before_it_takes_memory(decode: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode()
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"UFCH",
        chunk.HEADER.pack(b"UFCX", 1, 0, 0, PAGE) + bytes(PAGE),
        chunk.HEADER.pack(chunk.MAGIC, 2, 0, 0, PAGE) + bytes(PAGE),
        chunk.HEADER.pack(chunk.MAGIC, 1, 2, 0, PAGE) + bytes(PAGE),
        chunk.HEADER.pack(chunk.MAGIC, 1, 0, 1, PAGE) + bytes(PAGE),
        chunk.HEADER.pack(chunk.MAGIC, 1, 0, 0, PAGE) + bytes(PAGE - 1),
        chunk.HEADER.pack(chunk.MAGIC, 1, 0, 0, PAGE) + bytes(PAGE + 1),
        chunk.HEADER.pack(chunk.MAGIC, 1, 0, 0, 0),
        chunk.HEADER.pack(chunk.MAGIC, 1, 0, 0, 100) + bytes(100),
        chunk.HEADER.pack(chunk.MAGIC, 1, 1, 0, PAGE) + b"no zstd frame",
        chunk.encode(bytes(PAGE), 3).data[:-1],
        chunk.encode(bytes(PAGE), 3).data + b"x",
        chunk.encode(bytes(2 * PAGE), 3).data,
    ],
)
def test_a_chunk_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        chunk.decode(data, PAGE)
    assert caught.value.cause
    assert caught.value.cure
    with pytest.raises(FormatError):
        chunk.verify(bytes(32), data)


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


# The fuzzer.


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
            chunk.verify(blake3(seeds[0]).digest(), data + b"x")
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
