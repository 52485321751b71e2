"""What a store is to the rest of this room: named, immutable blobs of bytes.

A key is a path of plain names (`chunks/ab/…`).  An object appears whole or not at all, whoever is
killed while writing it.  Folders are `local.py`; S3, GCS, Azure and HTTP are `remote.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeGuard

import msgspec

from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_KEY_MOST = 1024  # the limit of S3, the smallest of the stores


class Listed(msgspec.Struct, frozen=True):
    """One object of a listing: `size` in bytes, `modified` in seconds since 1970."""

    key: str
    size: int
    modified: float


class Objects(Protocol):
    """A store.  All methods may be called from several threads; each may block."""

    @property
    def url(self) -> str:
        """Where it is, as the user may write it again; never with credentials."""
        ...

    def get(self, key: str, *, most: int | None = None) -> bytes:
        """The bytes of an object.

        Raises NoSuchObject; FormatError where it is longer than `most` bytes (which are then not
        read into memory); StoreError when the store cannot be read.
        """
        ...

    def put(self, key: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        """Write an object, atomically.

        With `new` it must not exist (AlreadyThere is raised, also to all but one of several
        writers at once), and it is durable when the call returns.  Otherwise it replaces what is
        there, and `flush` makes it durable.  Raises StoreFull, StoreError: nothing was written.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def size(self, key: str) -> int:
        """The bytes of an object, or NoSuchObject."""
        ...

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """All objects below `prefix` (empty or a folder that ends in `/`), in no order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...

    def flush(self) -> None:
        """Return when all puts so far outlive a crash of the machine."""
        ...


class Fetchable(Protocol):
    """What a remote store has besides: reading in an event loop."""

    async def fetch(self, key: str, *, most: int) -> bytes:
        """`get`, ended at once when it is cancelled."""
        ...


def is_remote(store: object) -> TypeGuard[Fetchable]:
    """Whether a store answers over a network, and is read in an event loop."""
    return hasattr(store, "fetch")


def check_key(key: str) -> None:
    """UsageError where a key could mean anything but a place below the store's root."""
    parts = key.split("/")
    if len(key) > _KEY_MOST or not _KEY.fullmatch(key) or "." in parts or ".." in parts:
        raise UsageError(
            f"{key[:100]!r} is no key of a store",
            cause="keys are names of A-Z a-z 0-9 . _ - joined by /, without . and ..",
            cure="use a plain name",
        )


def checked_keys(keys: Iterable[str]) -> list[str]:
    """The keys, each of which is one; else UsageError."""
    wanted = list(keys)
    for key in wanted:
        check_key(key)
    return wanted


def check_prefix(prefix: str) -> None:
    """UsageError where a prefix is neither empty nor a folder."""
    if prefix:
        check_key(prefix.removesuffix("/"))
        if not prefix.endswith("/"):
            raise UsageError(
                f"{prefix[:100]!r} is no folder of a store",
                cause="listings are by folder",
                cure="end it in /",
            )


def check_size(key: str, size: int, most: int | None, url: str = "") -> None:
    """FormatError where an object is longer than it can be."""
    if most is not None and size > most:
        where = f" in {url}" if url else ""
        raise FormatError(
            f"{key!r}{where} is {size} bytes long",
            cause=f"there it can have {most} at most",
            cure="the store is damaged: verify it",
        )
