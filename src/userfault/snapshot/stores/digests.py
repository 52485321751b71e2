"""Chunks are named by the digest of what is stored: whoever reads one holds it against its name.

BLAKE3, 32 bytes.  So wrong bytes are seen for what they are, whoever sent or kept them, before
anything in them is believed.
"""

from __future__ import annotations

from blake3 import blake3

from userfault.snapshot.errors import FormatError

_CURE = "the store is damaged: `userfault verify` lists what is; restore it from a copy"


def digest_of(data: bytes) -> bytes:
    """The digest that names these bytes."""
    return blake3(data).digest()


def verify(digest: bytes, data: bytes) -> None:
    """FormatError unless these are the stored bytes that `digest` names."""
    if blake3(data).digest() != digest:
        raise damaged("its bytes do not have the digest that names it", digest)


def damaged(cause: str, digest: bytes | None = None) -> FormatError:
    """The error of a chunk that is not what a pack has stored."""
    what = f"chunk {digest.hex()}" if digest else "a chunk"
    return FormatError(f"{what} is damaged", cause=cause, cure=_CURE)
