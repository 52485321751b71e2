"""Whether there is a store at all: what is empty and what is something else look alike in lists."""

from __future__ import annotations

from userfault.snapshot.errors import NoSuchStore
from userfault.snapshot.stores.keys import CHUNKS, INDEX, LEASES, SNAPSHOTS
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.objects import Objects, open_objects


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
