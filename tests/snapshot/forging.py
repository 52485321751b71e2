"""Manifests that no honest writer makes, in envelopes whose digest is right."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from blake3 import blake3

from userfault.snapshot.format import envelope, manifest
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE

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
