"""The place of an image's working set, and by what the image is known."""

from __future__ import annotations

import os

from userfault.kernel.names import shown
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.urls import folder_of, is_remote_url
from userfault.snapshot.working_sets.place import SETS, TIE_BYTES, Place
from userfault.source.spec import FileSpec, FunctionSpec, Spec, StoreSpec


def set_key(name: str) -> str:
    """The key of the set of a snapshot."""
    return SETS + check_name(name)


def of_file(path: str) -> Place:
    """That of a set in a file which the user has named."""
    return Place(shown(path), path=os.fsencode(os.path.abspath(path)))


def of_snapshot(url: str, name: str, spare: str | None) -> Place:
    """That of the set of a snapshot.  `spare`: the folder of a cache."""
    store = b"" if is_remote_url(url) else os.fsencode(os.path.abspath(folder_of(url)))
    held = os.fsencode(os.path.abspath(spare)) if spare else b""
    return Place(shown(f"{url}/{name}"), store=store, name=name, spare=held)


def tie_of(spec: Spec) -> bytes:
    """Which image it is: a snapshot by its digest, others by what is known of them.

    A file by its size and the time of its last change, a function by its name: as good as that is.
    """
    if isinstance(spec, StoreSpec):
        return spec.digest
    if isinstance(spec, FileSpec):
        when = "" if spec.copied else f"{spec.mtime_ns}"
        text = f"file {spec.size} {when}"
    elif isinstance(spec, FunctionSpec):
        text = f"function {spec.length} {spec.target}"
    else:
        text = f"zeros {spec.length}"
    import hashlib  # noqa: PLC0415  # with OpenSSL: 3 ms of a start that mostly needs none

    return hashlib.blake2b(text.encode(), digest_size=TIE_BYTES).digest()
