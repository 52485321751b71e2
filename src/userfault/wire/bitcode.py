"""Bitcode 0.6, as far as single values of fault messages need it.

Fields follow one another in the order of their declaration.  u32 and u64 have a tag byte and then
the value in the fewest bytes that hold it; a wider form is taken, another tag is not.
"""

from __future__ import annotations

from userfault.wire.errors import BadMessageError

_U32 = {0: 4, 2: 2, 4: 1}  # bytes, by tag
_U64 = {0: 8, 2: 4, 4: 2, 6: 1}


class Reader:
    """Values out of `data`, one after the other.  Raises BadMessageError for what is none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        return self._number(_U32)

    def u64(self) -> int:
        return self._number(_U64)

    def boolean(self) -> bool:
        return bool(self._take(1)[0] & 1)

    def optional_u32(self) -> int | None:
        return self.u32() if self.boolean() else None

    def optional_u64(self) -> int | None:
        return self.u64() if self.boolean() else None

    def end(self) -> None:
        """There is no more."""
        if self._at != len(self._data):
            raise _bad(f"{len(self._data) - self._at} bytes follow the message")

    def _number(self, sizes: dict[int, int]) -> int:
        tag = self._take(1)[0]
        if tag not in sizes:
            raise _bad(f"tag {tag}")
        return int.from_bytes(self._take(sizes[tag]), "little")

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise _bad("it is cut short")
        self._at += size
        return taken


def u32(value: int) -> bytes:
    """A value."""
    return _number(value, _U32)


def u64(value: int) -> bytes:
    """A value."""
    return _number(value, _U64)


def boolean(value: bool) -> bytes:  # what it encodes
    """A value."""
    return bytes([value])


def optional(value: bytes | None) -> bytes:
    """An encoded value, or none."""
    return b"\x00" if value is None else b"\x01" + value


def _number(value: int, sizes: dict[int, int]) -> bytes:
    tag, size = min(
        ((tag, size) for tag, size in sizes.items() if value < 1 << 8 * size),
        key=lambda each: each[1],
    )
    return bytes([tag]) + value.to_bytes(size, "little")


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "the message is no fault of a VM",
        cause=f"it is not in bitcode 0.6: {cause}",
        cure="look of which commit of the branch the VMM is",
    )
