"""Bytes that no honest writer made: each is refused with its cause and cure, in bounded memory.

What an attacker would think of, one by one; `test_fuzzed` has what chance thinks of.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest
import zstandard

from snapshot.forging import U32, U64, forged, honest, region, sealed, u32, u64
from userfault.snapshot.errors import FormatError
from userfault.snapshot.format import chunk, envelope, index, manifest
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.stores import digests

MIB = 1 << 20


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
        digests.verify(bytes(32), data)
