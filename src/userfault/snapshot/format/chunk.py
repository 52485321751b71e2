"""A chunk: up to 256 pages, compressed where that pays, named by the digest of what is stored.

The name is checked (`digests`) before anything is decompressed, and the header's raw length, held
against a bound, before anything is allocated.  `docs/format.md` gives the header byte by byte.
"""

from __future__ import annotations

import struct
import threading

import msgspec
import zstandard

from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.stores.digests import damaged, digest_of
from userfault.snapshot.stores.keys import CHUNK_MAGIC

MAGIC = CHUNK_MAGIC
VERSION = 1
HEADER = struct.Struct("<4sBBHI")  # magic, version, codec, reserved, raw length
MOST_RAW = 1 << 20
MOST_STORED = HEADER.size + MOST_RAW

_RAW, _ZSTD = 0, 1
# Level 1 is made for streams.  In chunks of 128 KiB a second, small hash table makes memory 3 %
# smaller for 17 % more of zstd's time (docs/decisions/0012).
_FASTEST = zstandard.ZstdCompressionParameters(
    window_log=20,
    chain_log=13,
    hash_log=14,
    search_log=1,
    min_match=5,
    target_length=0,
    strategy=zstandard.STRATEGY_DFAST,
    write_content_size=True,
    write_checksum=False,
)
_of_thread = threading.local()


class Stored(msgspec.Struct, frozen=True):
    """A chunk as it is stored."""

    digest: bytes
    data: bytes


def encode(raw: bytes | bytearray | memoryview, level: int) -> Stored:
    """The chunk of these pages, compressed by zstd at `level` unless that saves nothing."""
    payload = _compressor(level).compress(raw)
    codec = _ZSTD
    if len(payload) >= len(raw):
        payload, codec = bytes(raw), _RAW
    data = HEADER.pack(MAGIC, VERSION, codec, 0, len(raw)) + payload
    return Stored(digest_of(data), data)


def decode(data: bytes, most_raw: int = MOST_RAW) -> bytes:
    """The pages of a chunk, of `most_raw` bytes at the most.

    Safe on any bytes, from any number of threads; the GIL is free while zstd works.  Raises
    FormatError.  Whether these are the bytes that were asked for, `digests.verify` tells.
    """
    if len(data) < HEADER.size:
        raise damaged(f"it ends after {len(data)} bytes, within its header")
    magic, version, codec, reserved, raw_length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise damaged(f"it starts with {magic!r}, not {MAGIC!r}")
    if version != VERSION or codec > _ZSTD or reserved:
        raise FormatError(
            "cannot read a chunk",
            cause=f"it has version {version}, codec {codec} and flags {reserved:#x}; this program "
            f"knows version {VERSION}, codecs {_RAW} and {_ZSTD}, no flags",
            cure="use the userfault that wrote it, or a newer one",
        )
    if not 0 < raw_length <= min(most_raw, MOST_RAW) or raw_length % PAGE:
        raise damaged(f"it says that it holds {raw_length} bytes, of {most_raw} at the most")
    payload = memoryview(data)[HEADER.size :]
    return bytes(_stored_raw(payload, raw_length) if codec == _RAW else _zstd(payload, raw_length))


def decode_exactly(digest: bytes, data: bytes, raw_length: int) -> bytes:
    """The pages of the chunk that `digest` names, as many as a manifest says.  FormatError."""
    raw = decode(data, raw_length)
    if len(raw) != raw_length:
        raise damaged(f"it holds {len(raw)} bytes, and the manifest says {raw_length}", digest)
    return raw


def _stored_raw(payload: memoryview, raw_length: int) -> memoryview:
    if len(payload) != raw_length:
        raise damaged(f"it has {len(payload)} bytes where its header says {raw_length}")
    return payload


def _zstd(payload: memoryview, raw_length: int) -> bytes:
    """Decompress; nothing larger than `raw_length` is allocated."""
    try:
        # The frame's own length decides what the decompressor allocates: compare it first.
        if zstandard.frame_content_size(payload) != raw_length:
            raise damaged("the lengths of its header and of its zstd frame differ")
        raw = _decompressor().decompress(
            payload, max_output_size=raw_length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise damaged(f"zstd: {error}") from None
    if len(raw) != raw_length:
        raise damaged(f"{len(raw)} bytes came out where its header says {raw_length}")
    return raw


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One a thread and level: they keep their tables, and are not for two threads at once."""
    found: dict[int, zstandard.ZstdCompressor] = _of_thread.__dict__.setdefault("compressors", {})
    if level not in found:
        found[level] = (
            zstandard.ZstdCompressor(compression_params=_FASTEST)
            if level == 1
            else zstandard.ZstdCompressor(level=level, write_checksum=False)
        )
    return found[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_of_thread, "decompressor", None)
    if found is None:
        found = _of_thread.decompressor = zstandard.ZstdDecompressor()
    return found
