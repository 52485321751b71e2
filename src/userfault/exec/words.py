"""What the preloaded library and the command say to each other: one struct, both ways.

A packet of a Unix socket (SEQPACKET) is one message; a descriptor travels with `MAP` (the memory)
and `GIVEN` (the userfaultfd).  `preload.c` has the same struct, and a release that differs has
another MAGIC, which both sides look at.
"""

from __future__ import annotations

import enum
import struct

import msgspec

from userfault.kernel.errors import PagerError

MAGIC = 0x75660001  # "uf", and the version of what follows
_STRUCT = struct.Struct("=8I6Q")
BYTES = _STRUCT.size


class What(enum.IntEnum):
    """Of the library: ASK, GIVEN, FAILED; of the command: MAP, LEAVE, SERVED, FAILED."""

    ASK = 1  # this mapping was made: what shall become of it?
    MAP = 2  # memory goes over it: the descriptor's, or anonymous where there is none
    LEAVE = 3  # it stays as the kernel has made it
    GIVEN = 4  # the memory is there and registered
    SERVED = 5
    FAILED = 6  # mmap(2) fails with EIO


# What `step` of a message that says FAILED counts.
STEPS = ("", "userfaultfd(2)", "UFFDIO_API", "mmap(2)", "UFFDIO_REGISTER", "recvmsg(2)")
# `flags` of MAP.
USER_MODE_ONLY, WITH_MEMORY = 1, 2


class Message(msgspec.Struct):
    """`protection`, `flags`: as for mmap(2); `flags` of MAP: whether user-mode faults are enough,
    and whether its memory comes along.  `access`: how the file is open (O_ACCMODE, fcntl(2)).
    `address`, `length`, `offset`: bytes, whole pages.  `features`, `optional`: of the userfaultfd;
    `modes`: of the registration."""

    what: int
    file: int = 0
    error: int = 0
    protection: int = 0
    flags: int = 0
    access: int = 0
    step: int = 0
    address: int = 0
    length: int = 0
    offset: int = 0
    features: int = 0
    optional: int = 0
    modes: int = 0

    def encode(self) -> bytes:
        """As `struct message`."""
        return _STRUCT.pack(
            *(MAGIC, self.what, self.file, self.error),
            *(self.protection, self.flags, self.access, self.step),
            *(self.address, self.length, self.offset),
            *(self.features, self.optional, self.modes),
        )


def decode(data: bytes) -> Message:
    """Raises PagerError for what no library of this release says."""
    if len(data) != BYTES or _STRUCT.unpack(data)[0] != MAGIC:
        raise PagerError(
            "a program that says what nobody understands",
            cause=f"its message of {len(data)} bytes is none of this release",
            cure="it has another release's library preloaded, or connects by itself",
        )
    _, what, file, error, *rest = _STRUCT.unpack(data)
    return Message(what, file, error, *rest)
