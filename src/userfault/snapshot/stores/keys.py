"""Where in a store what lies, and how it begins: manifests, chunks, index pieces and leases.

`docs/format.md` gives the layout.  A name of a snapshot is one part of a key and nothing more: no
`/`, no `..`, nothing that a shell or a URL reads in another way.
"""

from __future__ import annotations

import re

from userfault.kernel.errors import UsageError

CHUNKS = "chunks/"
SNAPSHOTS = "snapshots/"
INDEX = "index/"
LEASES = "leases/"

# How what lies there begins: by it a store is known that is older than the file which says so.
CHUNK_MAGIC = b"UFCH"
MANIFEST_MAGIC = b"\x89UFS\r\n\x1a\n"  # broken by whatever takes it for a text
INDEX_MAGIC = b"\x89UFI\r\n\x1a\n"

DIGEST_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_LEASE = re.compile(r"leases/([0-9a-f]{24})\.(share|sweep)")
_PIECE = re.compile(r"index/([0-9a-f]{24})-[0-9]{1,9}")
_CHUNK = re.compile(r"chunks/([0-9a-f]{2})/(\1[0-9a-f]{62})")


def check_name(name: str) -> str:
    """`name`, which can be that of a snapshot; else UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{name[:100]!r} cannot be the name of a snapshot",
            cause="a name is 1 to 200 of A-Z a-z 0-9 . _ - and starts with a letter, digit or _",
            cure="choose another name",
        )
    return name


def is_name(name: str) -> bool:
    """Whether a snapshot can have this name."""
    return _NAME.fullmatch(name) is not None


def snapshot_key(name: str) -> str:
    """The key of the manifest of `name`; UsageError where that is no name."""
    return SNAPSHOTS + check_name(name)


def chunk_key(digest: bytes) -> str:
    """The key of the chunk with this digest of its stored bytes."""
    text = digest.hex()
    return f"{CHUNKS}{text[:2]}/{text}"


def chunk_digest(key: str) -> bytes | None:
    """The digest that the key of a chunk tells; None where it is not the key of a chunk."""
    found = _CHUNK.fullmatch(key)
    return bytes.fromhex(found[2]) if found else None


def lease_of(key: str) -> tuple[str, str] | None:
    """The id and the part (`share`, `sweep`) of a lease; None where it is not the key of one."""
    found = _LEASE.fullmatch(key)
    return (found[1], found[2]) if found else None


def piece_writer(key: str) -> str | None:
    """The id of the pack that wrote a piece of the index; None where it is not the key of one."""
    found = _PIECE.fullmatch(key)
    return found[1] if found else None
