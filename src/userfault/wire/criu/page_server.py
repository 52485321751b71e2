"""CRIU's page server: pages of a dump on their way to a store, or asked for one by one.

A request is a header, for some commands with pages behind it; numbers are in the byte order of the
machine.  Releases up to 4.1.1 have a header of 24 bytes, 4.2 and later one of 32, and neither end
says which it is: a server tells by the first request, a client has to be told.  (CRIU's
criu/page-xfer.c, `struct page_server_iov`.)
"""

from __future__ import annotations

import enum
import struct

import msgspec

from userfault.kernel.memtypes import BASE_PAGE
from userfault.wire.errors import BadMessageError
from userfault.wire.regions import HIGHEST

PAGE = BASE_PAGE
PARENT, LAZY, PRESENT = 1, 2, 4  # flags of pages: in the parent image, may be lazy, here
STATUS = struct.Struct("=i")  # the answer to PARENT, CLOSE and FORCE_CLOSE
SIZE = struct.Struct("=I")  # before each page of ADD_F_COMPRESSED

_FLAGS = PARENT | LAZY | PRESENT
_FLAG_SHIFT = 16
_TYPE_BITS = 8
# The type of an id has had other numbers, up to 3.2 (`decode_pm`).
_PIDS = (1, 10, 11, 16, 17)
_SHARED = (2, 27, 28, 29, 32, 33, 34)
_MOST_PID = 1 << 22  # PID_MAX_LIMIT (include/linux/threads.h)


class Form(enum.Enum):
    """Which header is spoken."""

    SHORT = struct.Struct("=IIQQ")  # up to 4.1.1
    LONG = struct.Struct("=I4xQQQ")  # since 4.2

    @property
    def size(self) -> int:
        """Bytes of a header."""
        return int(self.value.size)

    @classmethod
    def of(cls, version: str) -> Form:
        """That of a release, as `4.1` or `4.2.1`.  Raises ValueError for what is no version."""
        major, minor, *_ = (int(part) for part in (*version.split("."), "0"))
        return cls.LONG if (major, minor) >= (4, 2) else cls.SHORT


class Command(enum.IntEnum):
    """The low 16 bits of the first word."""

    ADD = 1
    HOLE = 2
    OPEN = 3
    OPEN2 = 4
    PARENT = 5
    ADD_F = 6
    GET = 7
    ADD_F_COMPRESSED = 8  # later than 4.2: a page at a time, LZ4
    CLOSE = 0x1023
    FORCE_CLOSE = 0x1024


_ENDS = (Command.CLOSE, Command.FORCE_CLOSE)
_OF_PAGES = (Command.ADD, Command.HOLE, Command.ADD_F, Command.ADD_F_COMPRESSED, Command.GET)


class PageMap(msgspec.Struct, frozen=True, order=True):
    """Whose pages: of a task, by its pid, or of shared memory, by its id."""

    number: int
    shared: bool = False

    def __str__(self) -> str:
        """As the image file is called: pagemap-NAME.img."""
        return f"shmem-{self.number}" if self.shared else str(self.number)


class Request(msgspec.Struct, frozen=True):
    """A header, checked.  `flags`: of its pages.  `map`: None where it names none (CLOSE)."""

    command: Command
    flags: int = 0
    pages: int = 0
    address: int = 0
    map: PageMap | None = None

    @property
    def end(self) -> int:
        """The address behind its pages."""
        return self.address + self.pages * PAGE

    @property
    def carries(self) -> bool:
        """Whether its pages follow."""
        return bool(self.flags & PRESENT) and self.command is not Command.GET


def encode(request: Request, form: Form) -> bytes:
    """The bytes of a header.  Raises struct.error for numbers that it has no room for."""
    held = request.map
    number = 0 if held is None else held.number
    if held is not None and request.command is not Command.GET:
        number = number << _TYPE_BITS | (_SHARED[0] if held.shared else _PIDS[0])
    word = request.flags << _FLAG_SHIFT | request.command
    return form.value.pack(word, request.pages, request.address, number)


def answer(request: Request, pages: int, form: Form) -> bytes:
    """The header before the pages that are given for a GET: as it was asked, but for how many."""
    held = request.map
    word = PRESENT << _FLAG_SHIFT | Command.ADD_F
    return form.value.pack(word, pages, request.address, 0 if held is None else held.number)


class Requests:
    """What a client says, header by header: read `wanted` bytes, and hand them to `take`.

    `form`: where it is known; else the first header tells.
    """

    def __init__(self, form: Form | None = None) -> None:
        self.form = form
        self._held = b""
        self.wanted = (form or Form.SHORT).size

    def take(self, data: bytes) -> Request | None:
        """The request that these bytes are; None where more are `wanted`.

        Raises BadMessageError for what no right client sends.
        """
        data = self._held + data
        if self.form is None:
            self.form = _form_of(data)
        self._held = b"" if len(data) >= self.form.size else data
        self.wanted = self.form.size - len(self._held)
        return None if self._held else decode(data, self.form)


def _form_of(data: bytes) -> Form:
    """What the first 24 bytes tell: in the long form the id comes behind them.

    The padding of the long form tells nothing: in a GET of 4.2.1 there is what the stack had there.
    """
    word, pages, address, number = Form.SHORT.value.unpack(data)
    command = word & 0xFFFF
    if command in (Command.OPEN, Command.OPEN2, Command.PARENT):
        return Form.SHORT if number else Form.LONG
    if command == Command.GET:
        # Short: an address, and a pid; long: a count in place of the one, an address of the other.
        short = pages and address and not address % PAGE and 0 < number < _MOST_PID
        return Form.SHORT if short else Form.LONG
    if command in _ENDS:  # nothing was asked for, and nothing comes behind it that counts
        return Form.SHORT
    raise _bad(f"it begins with command {command:#x}", "it is no client of a page server")


def decode(data: bytes, form: Form) -> Request:
    """A header of a client.  Raises BadMessageError."""
    word, pages, address, number = form.value.unpack(data)
    code, flags = word & 0xFFFF, word >> _FLAG_SHIFT
    if code not in set(Command):
        raise _bad(f"command {code:#x}", "it is of a CRIU that is newer than this release knows")
    command = Command(code)
    if command in _ENDS:
        return Request(command)
    held = _map_of(command, number)
    if command in (Command.OPEN, Command.OPEN2, Command.PARENT):
        return Request(command, map=held)
    if command is Command.ADD:
        flags = PRESENT
    elif command is Command.HOLE:
        flags = PARENT
    elif command is not Command.GET:
        _check_flags(flags)
    _check_range(pages, address)
    return Request(command, flags, pages, address, held)


def decode_answer(data: bytes, asked: Request, form: Form) -> int:
    """How many pages come, of those that were asked for.  Raises BadMessageError."""
    pages: int
    word, pages, address, number = form.value.unpack(data)
    if (word & 0xFFFF, word >> _FLAG_SHIFT & PRESENT) != (Command.ADD_F, PRESENT):
        raise _bad(f"an answer with the first word {word:#x}", _OTHER_RELEASE)
    expected = asked.map.number if asked.map is not None else 0
    if (address, number) != (asked.address, expected) or not 0 < pages <= asked.pages:
        told = f"{pages} pages at {address:#x} of {number}"
        wanted = f"{asked.pages} at {asked.address:#x} of {expected} were asked for"
        raise _bad(f"an answer of {told}", f"{wanted}; {_OTHER_RELEASE}")
    return pages


_OTHER_RELEASE = "the peer is of another release than it was said to be"


def _map_of(command: Command, number: int) -> PageMap:
    if command is Command.GET:  # the bare pid
        if not 0 < number < _MOST_PID:
            raise _bad(f"pages of task {number}", "no task has such a number")
        return PageMap(number)
    kind, found = number & 0xFF, number >> _TYPE_BITS
    if kind in _PIDS and 0 < found < _MOST_PID:
        return PageMap(found)
    if kind in _SHARED and found < 1 << 56:
        return PageMap(found, shared=True)
    raise _bad(f"pages of {number:#x}", "that is neither a task nor shared memory")


def _check_flags(flags: int) -> None:
    if flags & ~_FLAGS or not flags or flags & (PRESENT | PARENT) == PRESENT | PARENT:
        raise _bad(f"pages with the flags {flags:#x}", "no dump has such pages")


def _check_range(pages: int, address: int) -> None:
    if address % PAGE:
        raise _bad(f"pages at {address:#x}", "that is no beginning of a page")
    if not pages:
        raise _bad(f"no pages, at {address:#x}", "a request is for one at least")
    if address + pages * PAGE > HIGHEST:
        raise _bad(f"{pages} pages at {address:#x}", "they end behind all addresses")


def check_size(size: int) -> int:
    """The length of one compressed page.  Raises BadMessageError for one that is none."""
    if size > PAGE:
        raise _bad(f"a page of {size} bytes", f"compressed or not, one has {PAGE} at the most")
    return size


def _bad(what: str, cause: str) -> BadMessageError:
    return BadMessageError(
        f"the page server's peer says what makes no sense: {what}",
        cause=cause,
        cure="look which program, in which version, is at the other end",
    )
