"""The protocol of a move: frames, each a kind, a length and so many bytes; nothing is longer than
its kind may be.

Pages are numbered through all memories, one behind the other, each of whole pages of 4 KiB.  Which
side says what, and when, is in docs/postcopy.md.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.wire.errors import BadMessageError

MAGIC = b"userfault move\n"
VERSION = 1
TOKEN_BYTES = 32
MOST_STATE = 128 << 10  # bytes: 64 CPUs have half of it
MOST_MEMORIES = 64
MOST_PAGES = 1 << 30  # 4 TiB: page numbers are of 32 bits
PIECE = 64  # pages in a frame
MOST_RUNS = 8192  # in a frame
HEAD = struct.Struct(">BI")
_RUN = struct.Struct(">II")
_TEXT = 4096
_SMALL = 1 << 14

Runs = list[tuple[int, int]]  # first page, pages


class Kind(enum.IntEnum):
    """What a frame says."""

    HELLO = 1  # sender: a move begins, or goes on
    WELCOME = 2  # receiver: in which phase it is
    REFUSED = 3  # either: why there is, or will be, no move
    HAVE = 4  # receiver, after WELCOME: pages that it has; an empty one ends them
    PAGES = 5  # sender: pages that lie in a row
    ZEROS = 6  # sender: pages of zeros
    STALE = 7  # sender: pages that were written since they were sent
    SWITCH = 8  # sender: the guest stands still; its state
    READY = 9  # receiver: it could run from here
    GO = 10  # sender: it is yours
    RUNNING = 11  # receiver: it runs
    ASK = 12  # receiver: pages that have not come, and somebody waits for
    ALL = 13  # receiver: every page is in
    BYE = 14  # sender: it lets go of its pages
    ALIVE = 15  # either, when it has said nothing for a while
    AGAIN = 17  # receiver: pages that had come and were taken, and somebody waits for anew
    SYNC = 16  # sender: say so, when this is read; receiver: it was


_MOST = {
    Kind.HELLO: _SMALL + MOST_STATE,
    Kind.WELCOME: _SMALL,
    Kind.REFUSED: _SMALL,
    Kind.HAVE: MOST_RUNS * _RUN.size,
    Kind.PAGES: _RUN.size + PIECE * PAGE,
    Kind.ZEROS: MOST_RUNS * _RUN.size,
    Kind.STALE: MOST_RUNS * _RUN.size,
    Kind.SWITCH: MOST_STATE,
    Kind.ASK: MOST_RUNS * _RUN.size,
    Kind.AGAIN: MOST_RUNS * _RUN.size,
}


class Phase(enum.IntEnum):
    """How far the receiver is."""

    COPYING = 1
    READY = 2
    RUNNING = 3
    ALL = 4


class Offer(msgspec.Struct, frozen=True):
    """What is to be moved: the bytes of each memory, and what the receiver has to know of the guest
    before it comes (`about`; empty: there is none, the memories alone)."""

    lengths: tuple[int, ...]
    about: bytes = b""

    @property
    def length(self) -> int:
        """Bytes of all memories."""
        return sum(self.lengths)

    @property
    def pages(self) -> int:
        """Pages of all memories."""
        return self.length // PAGE


class Hello(msgspec.Struct, frozen=True):
    """`token`: which move it is; whoever knows it may go on with it (`resumes`)."""

    magic: bytes
    version: int
    token: bytes
    resumes: bool
    offer: Offer


class Welcome(msgspec.Struct, frozen=True):
    """The receiver's phase."""

    version: int
    phase: int


class Refused(msgspec.Struct, frozen=True):
    """Why not."""

    what: str
    cause: str = ""
    cure: str = ""

    @classmethod
    def of(cls, what: str, cause: str, cure: str) -> Refused:
        """With texts of a length that goes into a frame."""
        return cls(what[:_TEXT], cause[:_TEXT], cure[:_TEXT])

    @property
    def why(self) -> str:
        """In one line."""
        return " ".join(": ".join(filter(None, (self.what, self.cause))).split())


T = TypeVar("T", Hello, Welcome, Refused)


def head(kind: Kind, length: int) -> bytes:
    """What a frame begins with."""
    return HEAD.pack(kind, length)


def read_head(data: bytes | bytearray) -> tuple[Kind, int]:
    """Kind and length of a frame.  Raises BadMessageError."""
    number, length = HEAD.unpack(data)
    try:
        kind = Kind(number)
    except ValueError:
        raise _bad(f"there is no frame of kind {number}") from None
    if length > _MOST.get(kind, 0):
        raise _bad(f"{kind.name} has {length} bytes, and may have {_MOST.get(kind, 0)}")
    return kind, length


def pack(message: Hello | Welcome | Refused) -> bytes:
    """The bytes of a frame."""
    return msgspec.msgpack.encode(message)


def unpack(data: bytes | bytearray, kind: type[T]) -> T:
    """The message in a frame.  Raises BadMessageError."""
    try:
        message = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(f"{kind.__name__}: {error}") from None
    if isinstance(message, Hello):
        _check(message)
    return message


def _check(hello: Hello) -> None:
    if hello.magic != MAGIC:
        raise _bad("it does not begin as a move does")
    if hello.version != VERSION:
        raise _bad(f"it speaks version {hello.version} of the protocol, and this is {VERSION}")
    offer = hello.offer
    if len(hello.token) != TOKEN_BYTES or not 0 < len(offer.lengths) <= MOST_MEMORIES:
        raise _bad("a token of another length, no memory, or too many")
    if any(length <= 0 or length % PAGE for length in offer.lengths):
        raise _bad("a memory of no whole pages")
    if offer.pages > MOST_PAGES:
        raise _bad(f"{offer.pages} pages")


def pack_runs(runs: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """As many frames as it takes."""
    found = bytearray()
    for run in runs:
        found += _RUN.pack(*run)
        if len(found) == MOST_RUNS * _RUN.size:
            yield bytes(found)
            found.clear()
    if found:
        yield bytes(found)


def unpack_runs(data: bytes | bytearray, pages: int) -> Runs:
    """Those of a frame, of a move of so many pages.  Raises BadMessageError."""
    if len(data) % _RUN.size:
        raise _bad("runs of pages, cut off")
    runs = list(_RUN.iter_unpack(data))
    for first, count in runs:
        _within(first, count, pages)
    return runs


def pages_head(first: int, count: int) -> bytes:
    """What is before the bytes of pages."""
    return _RUN.pack(first, count)


def unpack_pages(data: bytes | bytearray, pages: int) -> tuple[int, int, memoryview]:
    """First, number and bytes.  Raises BadMessageError."""
    if len(data) < _RUN.size:
        raise _bad("pages, cut off")
    first, count = _RUN.unpack_from(data)
    _within(first, count, pages)
    view = memoryview(data)[_RUN.size :]
    if len(view) != count * PAGE:
        raise _bad(f"{count} pages of {len(view)} bytes")
    return first, count, view


def _within(first: int, count: int, pages: int) -> None:
    if not count or first + count > pages:
        raise _bad(f"{count} pages from page {first}, where there are {pages}")


def unexpected(kind: Kind) -> BadMessageError:
    """A frame that this side does not expect now."""
    return _bad(f"{kind.name} is not to be said now")


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "a peer that does not speak as a move does",
        cause=cause,
        cure="have both sides of one release of userfault",
    )
