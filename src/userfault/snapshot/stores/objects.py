"""What a store is to the rest of this room: named, immutable blobs of bytes.

A key is a path of plain names (`chunks/ab/…`).  An object appears whole or not at all, whoever is
killed while writing it.  Folders are `local.py`; S3, GCS, Azure and HTTP are `remote.py`, which is
imported only for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from userfault.kernel.errors import UsageError
from userfault.snapshot.stores.urls import folder_of

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
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


def open_objects(url: str | os.PathLike[str], *, into_existing: bool = False) -> Objects:
    """The store at a path or URL.  A folder need not exist: the first `put` makes it.

    `into_existing`: also in a folder that has other things in it (else NotAStore, by the `put`).

    Raises UsageError for a scheme that is not known, Unavailable where the `remote` extra is not
    installed, StoreError for a URL or an environment that cannot be used.
    """
    text = os.fspath(url)
    scheme = scheme_of(text)
    if scheme in REMOTE_SCHEMES:
        # Costs 0.1 s and starts threads: local stores never pay for it.
        from userfault.snapshot.stores.remote import RemoteObjects  # noqa: PLC0415

        return RemoteObjects.open(text)
    if scheme not in ("", "file"):
        raise UsageError(
            f"there are no stores of the kind {scheme}://",
            cause="a store is a folder, or a URL of "
            + ", ".join(f"{s}://" for s in REMOTE_SCHEMES),
            cure="correct the scheme; put ./ before a folder of that name",
        )
    from userfault.snapshot.stores.local import LocalObjects  # noqa: PLC0415  # it needs this module

    return LocalObjects(folder_of(text), into_existing=into_existing)


def scheme_of(url: str) -> str:
    """The scheme of a URL in lower case; empty for a path."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def check_key(key: str) -> None:
    """UsageError where a key could mean anything but a place below the store's root."""
    parts = key.split("/")
    if len(key) > _KEY_MOST or not _KEY.fullmatch(key) or "." in parts or ".." in parts:
        raise UsageError(
            f"{key[:100]!r} is no key of a store",
            cause="keys are names of A-Z a-z 0-9 . _ - joined by /, without . and ..",
            cure="use a plain name",
        )


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
