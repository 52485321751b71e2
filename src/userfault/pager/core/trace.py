"""The trace of one mapping: which pages faulted when, what was filled, and why.  The format.

A trace sees faults.  A page that was filled before anybody touched it raises none, so who wants to
know *which pages are touched* records with single pages and without background
(`Policy(background=False, window_bytes=1)`): then every first touch is a fault, and the trace is a
*touch trace* (`Header.touches`).  Of another trace the fills tell what a planner did.

A file is `MAGIC`, the length of the header (u32) and the header in msgpack; then records of 16
bytes, little-endian: time and kind, page, count.  Records are only ever appended, so whoever
recorded may be killed at any time: half a record at the end is none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.pager.core.actions import KINDS
from userfault.pager.core.states import NAMES

MAGIC = b"userfault trace\x01"
RECORD = struct.Struct("<QII")  # nanoseconds << 8 | detail << 4 | what; page; count
MOST_BYTES = 64 << 20  # of records: then it is full (4 million of them)
MOST_PAGES = 1 << 32

# What a record tells, and what its detail is.
FAULT = 0  # a message: the state of the page then; its extent has the flags of the message
FILLED = 1  # a fill succeeded: its kind, and `DEMAND` where a thread waited for it
AHEAD = 2  # a planner chose these pages while nobody waited: why
DROPPED = 3  # the client dropped pages
EVICTED = 4  # pages went back to their source, to keep a budget
RESUMED = 5  # the worker was killed, and another one records on: what was not written yet is lost
LOST = 6  # records were lost: they could not be written as fast as they came
FULL = 7  # nothing more was recorded
DEMAND = 8

# Why pages are filled while nobody waits.
BACKGROUND = 0  # everything is
ASKED = 1  # prefetch
STREAM = 2  # a stream of faults will want them
SET = 3  # they are of a working set
REASONS = ("background", "asked for", "stream", "working set")

_LENGTH = struct.Struct("<I")
_MOST_HEADER = 4096
_DETAILS = {FAULT: len(NAMES), AHEAD: len(REASONS)}
_KIND = DEMAND - 1  # of a detail of `FILLED`


class TraceError(UserfaultError):
    """A file that is no trace, or one of another version."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded.  `page_size` in bytes; `memory`: the name that `lazy()` takes; `source`:
    what kind the source is (file, function, zero, store); `begun_ns`: when, on the clock of the
    records (CLOCK_MONOTONIC); `wall_s`: when, in seconds since 1970; `window_pages`, `background`:
    the policy it was recorded with."""

    page_size: int
    pages: int
    memory: str = ""
    source: str = ""
    begun_ns: int = 0
    wall_s: float = 0.0
    window_pages: int = 1
    background: bool = False

    @property
    def touches(self) -> bool:
        """Every first touch of a page is in it."""
        return self.window_pages == 1 and not self.background


class Record(NamedTuple):
    """One line.  `time_ns`: since the trace began."""

    time_ns: int
    what: int
    detail: int
    page: int
    extent: int  # pages; of a fault the flags of its message; of `LOST` how many


class Tracing(Protocol):
    """Who records: told by the core as things happen, and knows what time it is."""

    def fault(self, page: int, flags: int, state: int) -> None:
        """A message about a page that is in `state`."""

    def filled(self, page: int, count: int, kind: int, demand: bool) -> None:
        """A fill of that kind succeeded."""

    def ahead(self, page: int, count: int, why: int) -> None:
        """A planner has chosen these pages while nobody waits."""

    def dropped(self, page: int, count: int) -> None:
        """The client has dropped them."""


class Trace(msgspec.Struct):
    """A trace that was read: `records` in the order of their writing."""

    header: Header
    records: list[Record]


def begin(header: Header) -> bytes:
    """What a file begins with."""
    encoded = msgspec.msgpack.encode(header)
    return MAGIC + _LENGTH.pack(len(encoded)) + encoded


def packed(time_ns: int, what: int, detail: int, page: int, count: int) -> bytes:
    """One record; `time_ns` on CLOCK_MONOTONIC."""
    return RECORD.pack(time_ns << 8 | detail << 4 | what, page, count)


def decode(data: bytes | memoryview, name: str = "the trace") -> Trace:
    """A trace of which nothing is taken on trust.  Raises TraceError, naming `name`."""
    header, start = _header(bytes(data[: len(MAGIC) + _LENGTH.size + _MOST_HEADER]), name)
    whole = (len(data) - start) // RECORD.size * RECORD.size
    if whole > 2 * MOST_BYTES:
        raise _refused(name, f"{whole} bytes of records, where {MOST_BYTES} is the most")
    return Trace(header, list(_records(memoryview(data)[start : start + whole], header, name)))


def _header(head: bytes, name: str) -> tuple[Header, int]:
    version = len(MAGIC) - 1
    if head[:version] != MAGIC[:version]:
        raise _refused(name, "it does not begin as a trace does")
    if head[version : version + 1] != MAGIC[version:]:
        cure = "read it with the release that wrote it, or record again"
        raise TraceError(
            f"{name} cannot be read", cause=f"version {head[version : version + 1]!r}", cure=cure
        )
    at = len(MAGIC) + _LENGTH.size
    try:
        (length,) = _LENGTH.unpack_from(head, len(MAGIC))
        header = msgspec.msgpack.decode(head[at : at + length], type=Header)
    except (struct.error, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _refused(name, f"its header: {error}") from None
    size = header.page_size
    if size < 4096 or size & (size - 1) or size > 1 << 40:
        raise _refused(name, f"pages of {size} bytes")
    if not 0 < header.pages < MOST_PAGES or header.window_pages < 1:
        raise _refused(name, f"{header.pages} pages, windows of {header.window_pages}")
    return header, at + length


def _records(data: memoryview, header: Header, name: str) -> Iterator[Record]:
    begun, pages = header.begun_ns, header.pages
    for number, (first, page, count) in enumerate(RECORD.iter_unpack(data)):
        what, detail = first & 15, first >> 4 & 15
        time_ns = (first >> 8) - begun
        kind = detail & _KIND if what == FILLED else 0
        if what > FULL or detail >= _DETAILS.get(what, 16) or kind >= len(KINDS):
            raise _refused(name, f"record {number} is of an unknown kind ({what}, {detail})")
        within = page < pages if what == FAULT else page + count <= pages
        if what < RESUMED and not within:
            raise _refused(name, f"record {number} is about page {page}, {count}, of {pages}")
        yield Record(max(time_ns, 0), what, detail, page, count)


def kind_of(detail: int) -> str:
    """The kind of a fill, in words."""
    return KINDS[detail & _KIND]


def _refused(name: str, cause: str) -> TraceError:
    return TraceError(f"{name} is no trace", cause=cause, cure="record one with Policy(trace=PATH)")
