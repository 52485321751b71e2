"""The manifest of a snapshot: which run of pages is zero, a word, the parent's, or in which chunk.

`decode` takes any bytes and gives a manifest that is sound in itself, or FormatError: whoever holds
one need check no count, offset or length again.  `docs/format.md` gives every byte.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate, compress, repeat
from operator import add, gt, mul, sub

import msgspec

from userfault.kernel.names import sendable
from userfault.snapshot.errors import FormatError
from userfault.snapshot.format import envelope
from userfault.snapshot.format.chunk import HEADER as CHUNK_HEADER
from userfault.snapshot.format.chunk import MOST_RAW as CHUNK_MOST
from userfault.snapshot.format.envelope import damaged
from userfault.snapshot.format.runs import (
    CHUNK,
    MOST_COUNT,
    PARENT,
    WORD,
    Runs,
    from_bytes,
    to_bytes,
)
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.stores.keys import DIGEST_BYTES, MANIFEST_MAGIC, is_name

MAGIC = MANIFEST_MAGIC
VERSION = 1
MOST_STORED = 256 << 20
MOST_BODY = 1 << 30
MOST_LENGTH = 1 << 46  # 64 TiB: no address space is larger than 128
MOST_SLOTS = 1 << 32
MOST_REGIONS = 1 << 20
_MOST_ABOUT = 1 << 12
_MOST_TEXT = 1 << 16
_ADDRESSES = 1 << 64
# Of a column of kinds: which are chunks, and which have no value.
_IS_CHUNK = bytes(kind == CHUNK for kind in range(256))
_HAS_NO_VALUE = bytes(kind not in (CHUNK, WORD) for kind in range(256))


class Base(msgspec.Struct, frozen=True):
    """The snapshot that a layer lies on: its name, and the digest of its manifest."""

    name: str
    digest: bytes


class ChunkTable:
    """The chunks of a manifest; their pages, counted through, are its slots.  44 bytes a chunk."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.stored = array("I")
        self.starts = array("Q", [0])  # first slot of each chunk, and the number of slots

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def slots(self) -> int:
        """Pages in all chunks together."""
        return self.starts[-1]

    def append(self, digest: bytes, stored_length: int, pages: int) -> int:
        """One more chunk; its number."""
        self.digests += digest
        self.stored.append(stored_length)
        self.starts.append(self.starts[-1] + pages)
        return len(self.stored) - 1

    def copy(self) -> ChunkTable:
        """Another table of the same chunks."""
        table = ChunkTable()
        table.digests = bytearray(self.digests)
        table.stored = array("I", self.stored)
        table.starts = array("Q", self.starts)
        return table

    def digest(self, chunk: int) -> bytes:
        """The digest of its stored bytes."""
        return bytes(self.digests[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES])

    def stored_length(self, chunk: int) -> int:
        """Bytes in the store."""
        return self.stored[chunk]

    def pages(self, chunk: int) -> int:
        """Pages that it holds."""
        return self.starts[chunk + 1] - self.starts[chunk]

    def raw_length(self, chunk: int) -> int:
        """Bytes that it holds."""
        return self.pages(chunk) * PAGE

    def find(self, slot: int) -> tuple[int, int]:
        """The chunk of a slot, and the page within it."""
        chunk = bisect_right(self.starts, slot) - 1
        return chunk, slot - self.starts[chunk]


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot is.  `length` in bytes, `created` in seconds since 1970.

    `writer` is the id of the pack that made it, by which its pieces of the index are named.
    """

    length: int
    kind: str
    created: int
    runs: Runs
    chunks: ChunkTable
    base: Base | None = None
    regions: tuple[Region, ...] = ()
    about: Mapping[str, str] = {}
    writer: str = ""

    @property
    def pages(self) -> int:
        """The last one may be a part of one."""
        return pages_of(self.length)


class _Body(msgspec.Struct, omit_defaults=True):
    """The body as msgpack has it: a map of these names."""

    length: int
    page_size: int
    kind: str
    created: int
    counts: bytes
    kinds: bytes
    values: bytes
    digests: bytes
    stored: bytes
    pages: bytes
    base: Base | None = None
    regions: list[Region] = []
    about: dict[str, str] = {}
    writer: str = ""


_decoder = msgspec.msgpack.Decoder(_Body)


def pages_of(length: int) -> int:
    """Pages that hold `length` bytes."""
    return -(-length // PAGE)


def encode(manifest: Manifest) -> bytes:
    """The object to store.  FormatError where it is larger than any reader would take."""
    runs, chunks = manifest.runs, manifest.chunks
    pages = array("H", (chunks.pages(chunk) for chunk in range(len(chunks))))
    body = msgspec.msgpack.encode(
        _Body(
            length=manifest.length,
            page_size=PAGE,
            kind=manifest.kind,
            created=manifest.created,
            base=manifest.base,
            counts=to_bytes(runs.counts),
            kinds=bytes(runs.kinds),
            values=to_bytes(runs.values),
            digests=bytes(chunks.digests),
            stored=to_bytes(chunks.stored),
            pages=to_bytes(pages),
            regions=[_told(region) for region in manifest.regions],
            about={sendable(key): sendable(text) for key, text in manifest.about.items()},
            writer=manifest.writer,
        )
    )
    data = envelope.seal(MAGIC, VERSION, body) if len(body) <= MOST_BODY else b""
    if not data or len(data) > MOST_STORED:
        raise FormatError(
            "the manifest would be too large",
            cause=f"{len(runs)} runs and {len(chunks)} chunks take {len(body)} bytes",
            cure="pack the memory as several images",
        )
    return data


def _told(region: Region) -> Region:
    """With escapes for those bytes of its name that are not UTF-8."""
    name = sendable(region.name)
    return region if name == region.name else msgspec.structs.replace(region, name=name)


def decode(data: bytes, what: str = "a manifest") -> Manifest:
    """The manifest in these bytes, checked throughout; `what` names it in errors.

    Raises FormatError.  Memory taken is bounded by what `data` holds (see `envelope`).
    """
    body = envelope.unseal(data, magic=MAGIC, version=VERSION, most_raw=MOST_BODY, what=what)
    try:
        read = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(what, f"its body is not what the format says: {error}") from None
    del body
    try:
        return _checked(read)
    except _UnsoundError as error:
        raise damaged(what, str(error)) from None


class _UnsoundError(Exception):
    """What cannot be in a manifest."""


def _checked(read: _Body) -> Manifest:
    if read.page_size != PAGE:
        raise _UnsoundError(f"pages of {read.page_size} bytes, where the format has {PAGE}")
    if not 0 <= read.length <= MOST_LENGTH:
        raise _UnsoundError(f"a length of {read.length} bytes, of {MOST_LENGTH} at the most")
    if read.base is not None:
        _check_base(read.base)
    chunks = _chunks(read)
    runs = _runs(read, chunks.slots)
    _check_words(read)
    return Manifest(
        length=read.length,
        kind=read.kind,
        created=read.created,
        runs=runs,
        chunks=chunks,
        base=read.base,
        regions=tuple(read.regions),
        about=read.about,
        writer=read.writer,
    )


def _check_base(base: Base) -> None:
    if not is_name(base.name):
        raise _UnsoundError(f"its base is {base.name[:100]!r}, which is no name")
    if len(base.digest) != DIGEST_BYTES:
        raise _UnsoundError(
            f"the digest of its base has {len(base.digest)} bytes, not {DIGEST_BYTES}"
        )


def _chunks(read: _Body) -> ChunkTable:
    """The table of chunks, with bounds on every length in it."""
    table = ChunkTable()
    with _columns("chunk table"):
        table.stored = from_bytes("I", read.stored)
        pages = from_bytes("H", read.pages)
    if not len(read.digests) == DIGEST_BYTES * len(pages) == DIGEST_BYTES * len(table.stored):
        raise _UnsoundError("the columns of its chunk table differ in length")
    if pages and not 0 < min(pages) <= max(pages) <= CHUNK_MOST // PAGE:
        raise _UnsoundError(f"a chunk of no pages, or of more than {CHUNK_MOST // PAGE}")
    # Columns at a time, not rows: a manifest may have millions.
    least, most = CHUNK_HEADER.size, map(mul, pages, repeat(PAGE))
    payload = map(sub, table.stored, repeat(least))
    if min(table.stored, default=least + 1) <= least or any(map(gt, payload, most)):
        raise _UnsoundError("a chunk that takes more bytes than its pages, or none")
    table.digests = bytearray(read.digests)
    table.starts = array("Q", accumulate(pages, initial=0))
    if table.slots > MOST_SLOTS:
        raise _UnsoundError(f"{table.slots} pages in chunks, of {MOST_SLOTS} at the most")
    return table


def _runs(read: _Body, slots: int) -> Runs:
    """The runs, which tile the image and lie within the chunks."""
    runs = Runs()
    with _columns("runs"):
        runs.counts = from_bytes("I", read.counts)
        runs.values = from_bytes("Q", read.values)
    runs.kinds = bytearray(read.kinds)
    if not len(runs.counts) == len(runs.kinds) == len(runs.values):
        raise _UnsoundError("the columns of its runs differ in length")
    total, expected = sum(runs.counts), pages_of(read.length)
    if total != expected or (runs.counts and min(runs.counts) == 0):
        raise _UnsoundError(f"its runs have {total} pages, its length {expected}; or one has none")
    if runs.kinds and max(runs.kinds) > CHUNK:
        raise _UnsoundError(f"pages of kind {max(runs.kinds)}")
    if read.base is None and PARENT in runs.kinds:
        raise _UnsoundError("pages of a base, and no base")
    in_chunks = runs.kinds.translate(_IS_CHUNK)
    ends = map(add, compress(runs.counts, in_chunks), compress(runs.values, in_chunks))
    last = max(ends, default=0)
    if last > slots:
        raise _UnsoundError(f"pages in slots up to {last} of {slots}")
    if any(compress(runs.values, runs.kinds.translate(_HAS_NO_VALUE))):
        raise _UnsoundError("pages with a value, of a kind that has none")
    return runs


def _check_words(read: _Body) -> None:
    """Regions within the image and the address space; texts of sane length."""
    if not 0 <= read.created < 1 << 63 or max(len(read.kind), len(read.writer)) > 64:
        raise _UnsoundError("a date, kind or writer that cannot be")
    if len(read.regions) > MOST_REGIONS or len(read.about) > _MOST_ABOUT:
        raise _UnsoundError(f"{len(read.regions)} regions and {len(read.about)} words about it")
    if any(len(key) > _MOST_TEXT or len(text) > _MOST_TEXT for key, text in read.about.items()):
        raise _UnsoundError(f"words about it of more than {_MOST_TEXT} characters")
    room = pages_of(read.length) * PAGE
    for region in read.regions:
        inside = 0 <= region.offset <= region.offset + region.length <= room
        if not inside or not 0 <= region.start <= region.start + region.length <= _ADDRESSES:
            raise _UnsoundError(
                f"a region of {region.length} bytes at {region.offset} of {room}, "
                f"at address {region.start:#x}"
            )
        if (region.start | region.length | region.offset) % PAGE or region.length <= 0:
            raise _UnsoundError("a region that is not of whole pages")
        if not 0 <= region.protection <= MOST_COUNT or region.file_offset < 0:
            raise _UnsoundError("a region with a protection or offset that cannot be")
        if len(region.name) > _MOST_TEXT:
            raise _UnsoundError(f"a region whose name has {len(region.name)} characters")


@contextlib.contextmanager
def _columns(which: str) -> Iterator[None]:
    """A column of half an item is told as what it is."""
    try:
        yield
    except ValueError as error:
        raise _UnsoundError(f"its {which}: {error}") from None
