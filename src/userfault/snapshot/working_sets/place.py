"""Where the working set of an image is kept, as values that can be sent.

Nothing here is costly to import: every pager has these.
"""

from __future__ import annotations

import msgspec

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
