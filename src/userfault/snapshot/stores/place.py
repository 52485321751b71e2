"""Which sources are snapshots: paths and URLs, told from those of other things.

Nothing that reads snapshots is imported here: whoever restores from a plain file asks this too.
"""

from __future__ import annotations

import os

from userfault.kernel.errors import UsageError
from userfault.snapshot.stores.keys import SNAPSHOTS, check_name, is_name
from userfault.snapshot.stores.urls import is_file_url, is_remote_url, last_part


def place_of(source: str) -> tuple[str, str] | None:
    """The store and the name that a source means, or None where it is no snapshot.

    A URL of a store always means one: its last part is the name.  A path means one where nothing
    is at that path, and the folder above it is a store that has a snapshot of that name (or where
    the folder is a store, and there is nothing else that the path could mean).
    """
    if is_remote_url(source) or is_file_url(source):
        url, name = last_part(source)
        return url, check_name(name)
    path, name = os.path.split(source)
    if os.path.lexists(source) or not is_name(name):
        return None
    is_store = os.path.isdir(os.path.join(path, SNAPSHOTS))
    return (path or ".", name) if is_store else None


def place_for(place: str | os.PathLike[str], doing: str) -> tuple[str, str]:
    """The store and the name of `"STORE/NAME"`, where something is to be stored.  `doing`: what is
    done, for the error.  Raises UsageError for a place that is none."""
    store, name = last_part(os.fsdecode(place))
    check_name(name)
    if not store:
        raise UsageError(
            doing,
            cause="it names no store",
            cure=f"write STORE/NAME, as /srv/memory/{name} or ./store/{name}",
        )
    return store, name
