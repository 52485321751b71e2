"""Where the working set of an image is kept, and which image it is of, as values that can be sent.

Nothing here is costly to import: who restores from a plain file and names no set pays for none.
"""

from __future__ import annotations

import os

import msgspec

from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.urls import folder_of, is_remote_url
from userfault.source.spec import FileSpec, FunctionSpec, Spec, StoreSpec

SETS = "sets/"
TIE_BYTES = 32
HEAD_BYTES = (
    4096  # before the notes of a recording, a byte a page: `pager/drivers/mappings/notes.py`
)


class Place(msgspec.Struct, frozen=True):
    """`shown`: its name in messages.  `path`: a file that the user has named.  Without one, beside
    the snapshot `name` in the folder `store`, or, where that cannot be written, in the folder
    `spare`, which is a cache.  Paths are bytes: they may be no UTF-8.
    """

    shown: str
    path: bytes = b""
    store: bytes = b""
    name: str = ""
    spare: bytes = b""


class Job(msgspec.Struct, frozen=True):
    """A recording of `pages` pages of `page_size` bytes is to be kept at `place`.

    `tie`: of the image.  `stale`: none was made, but the set that is there was of little use.
    """

    place: Place
    tie: bytes
    page_size: int
    pages: int
    stale: bool = False


def set_key(name: str) -> str:
    """The key of the set of a snapshot."""
    return SETS + check_name(name)


def of_file(path: str) -> Place:
    """That of a set in a file which the user has named."""
    return Place(path, path=os.fsencode(os.path.abspath(path)))


def of_snapshot(url: str, name: str, spare: str | None) -> Place:
    """That of the set of a snapshot.  `spare`: the folder of a cache."""
    store = b"" if is_remote_url(url) else os.fsencode(os.path.abspath(folder_of(url)))
    held = os.fsencode(os.path.abspath(spare)) if spare else b""
    return Place(f"{url}/{name}", store=store, name=name, spare=held)


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
    import hashlib  # noqa: PLC0415  # it brings OpenSSL: a pager's start would wait 4 ms and more

    return hashlib.blake2b(text.encode(), digest_size=TIE_BYTES).digest()
