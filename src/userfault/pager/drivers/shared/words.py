"""What is said to a keeper: one packet to ask for a copy, one to answer, then silence.

The connection itself is the claim: whoever holds it open uses the copy, and when the last process
that had it is gone, however it went, the keeper knows.
"""

from __future__ import annotations

import struct

import msgspec

KEY = 32  # bytes
MOST = 4096  # of a packet

_ASK = struct.Struct(f"=8s{KEY}sQd")
_ANSWER = struct.Struct("=8sQ")
_MAGIC = b"ufcopy01"  # the last two: the version


class Ask(msgspec.Struct, frozen=True):
    """A copy is wanted.  `key`: what is in it, see `asking.key_of`.  `pages`: of 4 KiB.

    `keep_s`: seconds for which it is to be kept once nobody uses it.
    """

    key: bytes
    pages: int
    keep_s: float

    def encode(self) -> bytes:
        """As a packet."""
        return _ASK.pack(_MAGIC, self.key, self.pages, self.keep_s)

    @classmethod
    def decode(cls, data: bytes) -> Ask | None:
        """None for what is none, or of another version."""
        if len(data) != _ASK.size:
            return None
        magic, *rest = _ASK.unpack(data)
        ask = cls(*rest)
        sound = magic == _MAGIC and 0 < ask.pages < 1 << 44 and 0 <= ask.keep_s < 1e9
        return ask if sound else None


def granted(address: int) -> bytes:
    """The answer with the copy; its descriptors come along: the memfd, the filler, the marks."""
    return _ANSWER.pack(_MAGIC, address)


def refused(why: str) -> bytes:
    """The answer without."""
    return why.encode()[:MOST]


def address_in(data: bytes) -> int | str:
    """Where the filler fills, or why there is no copy."""
    if len(data) == _ANSWER.size:
        magic, address = _ANSWER.unpack(data)
        if magic == _MAGIC:
            return int(address)
    return data.decode(errors="replace") or "the keeper hung up"
