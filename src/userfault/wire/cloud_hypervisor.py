"""Cloud Hypervisor's migration protocol, version 0: requests of 16 bytes, each with its response.

A request: u16 command, 6 bytes of the command's own, u64 length of the payload behind it.  A
response: u16 status, 6 bytes of padding, u64 length of what follows.  Byte order of the machine,
which is little endian on all that it runs on.  (vm-migration/src/protocol.rs, main of August 2026;
the same in 53.0.)

On a connection for page faults the VMM asks, and whoever restores answers: with length 0 when the
bytes are in the memory that both map, else with the bytes.
"""

from __future__ import annotations

import enum
import struct

import msgspec

from userfault.wire.errors import BadMessageError

VERSION = 0
LARGEST = 1 << 30  # bytes of one page fault's page
_REQUEST = struct.Struct("<H6sQ")
_RESPONSE = struct.Struct("<H6xQ")
_RANGE = struct.Struct("<QQ")
_ROLE = struct.Struct("<H")
_SLOT = struct.Struct("<I")
HEADER = _REQUEST.size
SLOT_SIZE = _SLOT.size


class Command(enum.IntEnum):
    """Of a request."""

    START = 1
    CONFIG = 2
    STATE = 3
    MEMORY = 4
    COMPLETE = 5
    ABANDON = 6
    MEMORY_FD = 7
    COMPLETE_PAUSED = 8
    PAGE_FAULT = 9


class Status(enum.IntEnum):
    """Of a response."""

    OK = 1
    ERROR = 2


class Request(msgspec.Struct, frozen=True):
    """`command`, its `version` (of START alone), and how many bytes of payload follow."""

    command: Command
    length: int
    version: int = 0


class Fault(msgspec.Struct, frozen=True):
    """`length` bytes from guest-physical address `gpa` on are wanted."""

    gpa: int
    length: int


FAULT_ROLE = _ROLE.pack(2)  # what a connection for page faults begins with


def request(command: Command, length: int = 0) -> bytes:
    """Its header.  (The version of START is `VERSION`, which is zero as the rest is.)"""
    return _REQUEST.pack(command, bytes(6), length)


def response(status: Status, length: int = 0) -> bytes:
    """Its header."""
    return _RESPONSE.pack(status, length)


def slot(number: int) -> bytes:
    """The payload of MEMORY_FD."""
    return _SLOT.pack(number)


def slot_of(data: bytes) -> int:
    """The number in it."""
    return int(_SLOT.unpack(data)[0])


def read_request(data: bytes) -> Request:
    """The first 16 bytes.  Raises BadMessageError for a command that there is not."""
    number, own, length = _REQUEST.unpack_from(data)
    try:
        command = Command(number)
    except ValueError:
        raise _bad(f"command {number} is unknown") from None
    version = int.from_bytes(own[:2], "little") if command is Command.START else 0
    return Request(command, length, version)


def read_response(data: bytes) -> tuple[Status, int]:
    """Status, and how many bytes follow.  Raises BadMessageError for a status that there is not."""
    number, length = _RESPONSE.unpack(data)
    try:
        return Status(number), length
    except ValueError:
        raise _bad(f"status {number} is unknown") from None


def size_of(data: bytes) -> int:
    """How long the message is that begins so, on a connection for page faults.

    Raises BadMessageError for what does not belong there.
    """
    if len(data) < HEADER:
        return HEADER
    found = read_request(data)
    if found.command is Command.ABANDON and not found.length:
        return HEADER
    if found.command is Command.PAGE_FAULT and found.length == _RANGE.size:
        return HEADER + _RANGE.size
    raise _bad(f"{found.command.name} with {found.length} bytes, among page faults")


def read_fault(data: bytes) -> Fault | None:
    """What a whole message asks for; None: for the end (ABANDON)."""
    if read_request(data).command is Command.ABANDON:
        return None
    return Fault(*_RANGE.unpack_from(data, HEADER))


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "the message is none of Cloud Hypervisor's",
        cause=cause,
        cure="look which program, in which version, is at the other end",
    )
