"""A source that fails in one place, as a damaged disk does."""

from __future__ import annotations

BAD = range(40960, 49152)  # the bytes that cannot be read


def read(offset: int, length: int) -> bytes:
    """Bytes 42, but for the damaged ones."""
    if offset < BAD.stop and offset + length > BAD.start:
        raise OSError(f"cannot read bytes {BAD.start} to {BAD.stop}")
    return b"*" * length
