"""The page-digest index of a store: which page contents are in which chunk.

A pack writes its part in pieces, each when its chunks are durable; the next pack reads them and
refers to pages that are there.  An index that is lost, old or damaged costs sharing, never
correctness.  A piece has the digest of each page in the order of its slots, so that 16 bytes a page
and 38 a chunk are all of it; `docs/format.md` gives every byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from userfault.snapshot.format import envelope
from userfault.snapshot.format.chunk import HEADER as CHUNK_HEADER
from userfault.snapshot.format.chunk import MOST_RAW as CHUNK_MOST
from userfault.snapshot.format.envelope import damaged
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.stores.keys import DIGEST_BYTES, INDEX, INDEX_MAGIC

MAGIC = INDEX_MAGIC
VERSION = 1
# A piece is written whenever this many pages were stored: 4 MiB of digests.
PIECE_PAGES = 1 << 18
MOST_PIECE = 64 << 20
PAGE_DIGEST = 16  # bytes of the BLAKE3 of a page, by which its content is known
MOST_STORED = MOST_PIECE + envelope.HEADER_BYTES

_COUNT = struct.Struct("<I")
_ROW = struct.Struct(f"<{DIGEST_BYTES}sIH")  # digest, stored length, pages


class IndexedChunk(NamedTuple):
    """A chunk, and the digests of its pages one after the other."""

    digest: bytes
    stored_length: int
    pages: bytes


def piece_key(writer: str, number: int) -> str:
    """The key of piece `number` of the pack that has this id."""
    return f"{INDEX}{writer}-{number}"


def encode(chunks: Iterable[IndexedChunk]) -> bytes:
    """The object of a piece.  It is mostly digests, which no compression makes smaller."""
    rows, pages = [], []
    for digest, stored_length, its_pages in chunks:
        rows.append(_ROW.pack(digest, stored_length, len(its_pages) // PAGE_DIGEST))
        pages.append(its_pages)
    body = b"".join([_COUNT.pack(len(rows)), *rows, *pages])
    return envelope.seal(MAGIC, VERSION, body, level=1)


def decode(data: bytes, what: str = "an index piece") -> Iterator[IndexedChunk]:
    """The chunks of a piece.  Raises FormatError before the first one where anything is wrong."""
    body = envelope.unseal(data, magic=MAGIC, version=VERSION, most_raw=MOST_PIECE, what=what)
    if len(body) < _COUNT.size:
        raise damaged(what, "it has no count of chunks")
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size + count * _ROW.size
    if at > len(body):
        raise damaged(what, f"its {len(body)} bytes cannot hold {count} chunks")
    rows = list(_ROW.iter_unpack(memoryview(body)[_COUNT.size : at]))
    for _, stored_length, pages in rows:
        raw = pages * PAGE
        if not 0 < raw <= CHUNK_MOST or not 0 < stored_length <= CHUNK_HEADER.size + raw:
            raise damaged(what, f"a chunk of {pages} pages that takes {stored_length} bytes")
    if at + sum(row[2] for row in rows) * PAGE_DIGEST != len(body):
        raise damaged(what, "its digests are more or fewer than its pages")
    return _chunks(body, at, rows)


def _chunks(body: bytes, at: int, rows: list[tuple[bytes, int, int]]) -> Iterator[IndexedChunk]:
    for digest, stored_length, pages in rows:
        end = at + pages * PAGE_DIGEST
        yield IndexedChunk(digest, stored_length, body[at:end])
        at = end
