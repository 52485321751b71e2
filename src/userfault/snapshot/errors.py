"""What can go wrong with memory images at rest: each error says what, why, and what to do.

`StoreError` is the place's fault (unreachable, full, refused); `FormatError` is the bytes' (damaged
or hostile); `NoSuchSnapshot` and `SnapshotInUse` are about names.
"""

# ruff: noqa: N818  # the names say what happened; that each is an error, its base class says
from __future__ import annotations

from typing import ClassVar

from userfault.kernel.errors import UsageError, UserfaultError


class StoreError(UserfaultError):
    """The store could not be reached, refused, or stopped answering in the middle."""


class StoreFull(StoreError):
    """The store has no room left (ENOSPC, a quota): what was there before is still there."""


class NotAStore(UsageError):
    """This folder is no store (or no cache), and is somebody's: nothing is made in it."""


class NoSuchStore(StoreError):
    """Nothing at this place was written by a pack: it is no store, or the wrong place."""


class _ObjectError(StoreError):
    """About one object: its `key`, and the `url` of its store."""

    _text: ClassVar[str]

    def __init__(self, key: str, *, url: str = "", cause: str = "", cure: str = "") -> None:
        where = f" in {url}" if url else ""
        super().__init__(self._text.format(repr(key)) + where, cause=cause, cure=cure)
        self.key = key
        self.url = url

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.key, self.url, self.cause, self.cure)


class NoSuchObject(_ObjectError):
    """The store answers, and has no object with this key."""

    _text = "there is no object {}"


class AlreadyThere(_ObjectError):
    """An object that was to be new exists already."""

    _text = "there is an object {} already"


class FormatError(UserfaultError):
    """These bytes are not what the format allows: truncated, damaged, hostile, or too new."""


class NoSuchSnapshot(UserfaultError):
    """No snapshot of this name is in the store, or the base that one needs is gone."""


class SnapshotInUse(UserfaultError):
    """The name is taken, another pack is writing it, or other snapshots are built on it."""


def told(error: UserfaultError) -> str:
    """What went wrong and why, without the cure, for who tells it among other things."""
    return f"{error.what}: {error.cause}" if error.cause else error.what


def _again(kind: type[_ObjectError], key: str, url: str, cause: str, cure: str) -> _ObjectError:
    """Rebuild after pickling: the exception's own arguments are the finished text."""
    return kind(key, url=url, cause=cause, cure=cure)
