"""From a path or URL to the store there: any place, or one that a pack has written to.

What is empty and what is something else look alike in lists, so that the second is asked apart.
"""

from __future__ import annotations

import os

from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import NoSuchStore
from userfault.snapshot.stores.keys import CHUNKS, INDEX, LEASES, SNAPSHOTS
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.urls import REMOTE_SCHEMES, folder_of, is_remote_url, scheme_of


def open_objects(url: str | os.PathLike[str], *, into_existing: bool = False) -> Objects:
    """The store at a path or URL.  A folder need not exist: the first `put` makes it.

    `into_existing`: also in a folder that has other things in it (else NotAStore, by the `put`).

    Raises UsageError for a scheme that is not known, Unavailable where the `remote` extra is not
    installed, StoreError for a URL or an environment that cannot be used.
    """
    text = os.fspath(url)
    if is_remote_url(text):
        # Costs 0.1 s and starts threads: local stores never pay for it.
        from userfault.snapshot.stores.remote import RemoteObjects  # noqa: PLC0415

        return RemoteObjects.open(text)
    scheme = scheme_of(text)
    if scheme not in ("", "file"):
        raise UsageError(
            f"there are no stores of the kind {scheme}://",
            cause="a store is a folder, or a URL of "
            + ", ".join(f"{s}://" for s in REMOTE_SCHEMES),
            cure="correct the scheme; put ./ before a folder of that name",
        )
    return LocalObjects(folder_of(text), into_existing=into_existing)


def open_existing(url: str) -> Objects:
    """The store at a path or URL, where there is one.

    Raises NoSuchStore for a folder, or a place in a bucket, in which no pack ever wrote; and as
    `open_objects` does.
    """
    objects = open_objects(url)
    if isinstance(objects, LocalObjects):
        there = objects.is_store()
        cause = "`userfault pack` has never written into this folder"
    else:
        parts = (SNAPSHOTS, LEASES, INDEX, CHUNKS)
        there = any(next(objects.list(part), None) is not None for part in parts)
        cause = "nothing that `userfault pack` writes is below this URL"
    if not there:
        raise NoSuchStore(
            f"there is no store in {objects.url}",
            cause=cause,
            cure="name the folder or URL that was given to `userfault pack`, without the name of a"
            " snapshot",
        )
    return objects
