"""The envelope of manifests and index pieces: what it is, which version, how long, which digest.

64 bytes before a body.  A body is read only after its digest was checked, and decompressed only
after its length was held against bounds, so that damaged bytes are never parsed and a small object
cannot become a large one in memory.
"""

from __future__ import annotations

import struct

import zstandard
from blake3 import blake3

from userfault.snapshot.errors import FormatError

# magic, version, codec, reserved, stored length, raw length; then the digest, then 4 reserved bytes
_FIELDS = struct.Struct("<8sHBBQQ")
HEADER_BYTES = 64
DIGEST_AT = _FIELDS.size
_DIGEST = 32

_RAW, _ZSTD = 0, 1
# A body may be this many times as long as what is stored of it: real ones stay below 20.
MOST_RATIO = 64
SLACK = 1 << 20


def seal(magic: bytes, version: int, body: bytes, *, level: int = 3) -> bytes:
    """The object of this body."""
    codec, stored = _ZSTD, zstandard.ZstdCompressor(level=level).compress(body)
    if len(stored) >= len(body) or len(body) > _most(len(stored)):
        codec, stored = _RAW, body
    head = _FIELDS.pack(magic, version, codec, 0, len(stored), len(body))
    digest = blake3(head).update(stored).digest()
    return head + digest + bytes(HEADER_BYTES - DIGEST_AT - _DIGEST) + stored


def digest_of(data: bytes) -> bytes:
    """The digest that an envelope carries: it covers its fields and its body."""
    return data[DIGEST_AT : DIGEST_AT + _DIGEST]


def unseal(data: bytes, *, magic: bytes, version: int, most_raw: int, what: str) -> bytes:
    """The body; `what` names the object in errors.

    Raises FormatError: no such object, another version, truncated, damaged, or a body of more than
    `most_raw` bytes or MOST_RATIO times what is stored.
    """
    if len(data) < HEADER_BYTES:
        raise damaged(what, f"it ends after {len(data)} bytes, within its header")
    found, its_version, codec, reserved, stored_length, raw_length = _FIELDS.unpack_from(data)
    if found != magic:
        raise damaged(what, f"it starts with {found!r}, not {magic!r}")
    if its_version != version:
        raise FormatError(
            f"cannot read {what}",
            cause=f"it has version {its_version} of the format; this program knows {version}",
            cure="use a newer userfault"
            if its_version > version
            else "write it again with this one",
        )
    stored = memoryview(data)[HEADER_BYTES:]
    if len(stored) != stored_length:
        raise damaged(what, f"it has {len(stored)} bytes of the {stored_length} its header says")
    if blake3(data[:DIGEST_AT]).update(stored).digest() != digest_of(data):
        raise damaged(what, "its bytes do not have the digest in its header")
    if reserved or any(data[DIGEST_AT + _DIGEST : HEADER_BYTES]) or codec > _ZSTD:
        raise damaged(what, f"codec {codec} or reserved bytes that are not zero")
    if raw_length > most_raw or raw_length > _most(stored_length):
        raise damaged(
            what,
            f"its {stored_length} bytes say that they become {raw_length}: no writer does that",
        )
    if codec == _RAW:
        if raw_length != stored_length:
            raise damaged(what, "two lengths of a body that is not compressed differ")
        return bytes(stored)
    return _decompress(stored, raw_length, what)


def damaged(what: str, cause: str) -> FormatError:
    """The error of an object that no program of this version has written."""
    return FormatError(
        f"{what} is damaged",
        cause=cause,
        cure="restore it from a copy of the store; `userfault verify` says what else is damaged",
    )


def _decompress(stored: memoryview, raw_length: int, what: str) -> bytes:
    try:
        if zstandard.frame_content_size(stored) != raw_length:
            raise damaged(what, "the lengths of its header and of its zstd frame differ")
        body = zstandard.ZstdDecompressor().decompress(
            stored, max_output_size=max(raw_length, 1), allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise damaged(what, f"zstd: {error}") from None
    if len(body) != raw_length:
        raise damaged(what, f"{len(body)} bytes came out where its header says {raw_length}")
    return body


def _most(stored_length: int) -> int:
    return MOST_RATIO * stored_length + SLACK
