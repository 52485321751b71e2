"""Reading protobuf messages whose few interesting fields are known, without their definitions.

The wire format: each field is a varint (number << 3 | type), then its value
(protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator

from userfault.snapshot.errors import FormatError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field, in the order in which they were written.

    A value is an integer, or the bytes of a string or of a message.  Raises FormatError.
    """
    at, end = 0, len(message)
    while at < end:
        key = message[at]
        if key < 0x80:  # of one byte, as nearly all are: without a call
            at += 1
        else:
            key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            if at < end and (value := message[at]) < 0x80:
                at += 1
            else:
                value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise FormatError("a protobuf message is damaged", cause=f"wire type {kind}")
        if size > end - at:
            raise _truncated()
        found = bytes(message[at : at + size])
        at += size
        yield key >> 3, found if kind == _BYTES else int.from_bytes(found, "little")


def _varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """The value, and where the next thing begins."""
    value = shift = 0
    while True:
        if at >= len(message):
            raise _truncated()
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise FormatError("a protobuf message is damaged", cause="a number of over 10 bytes")


def _truncated() -> FormatError:
    return FormatError("a protobuf message is damaged", cause="it ends within a field")
