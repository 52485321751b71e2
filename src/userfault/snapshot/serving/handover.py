"""From a snapshot's name to a table of its pages: what the client does before a restore.

It opens the snapshot, makes the table and hands that over as a sealed memfd, with a `StoreSpec`
that says who has the chunks.  The pager (`taking_up.py`) needs no manifest, and no name.
"""

from __future__ import annotations

import os

from userfault.kernel.errors import SourceError, UsageError
from userfault.linux.limits import growing
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.kept import Kept
from userfault.snapshot.serving.table import build, sealed
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.urls import folder_of
from userfault.source.spec import Resolved, StoreSpec

_MOST_KEPT = 4 << 20  # bytes of a table that is kept
_TABLES: Kept[bytes] = Kept(4)


def resolve(
    url: str,
    name: str,
    *,
    length: int | None = None,
    offset: int = 0,
    second: str | None = None,
    cache: str | None = None,
    cache_size: int | None = None,
) -> Resolved:
    """`length` bytes at `offset` (a multiple of 4096) of a snapshot, ready to be served.

    Raises NoSuchSnapshot, FormatError, StoreError for the snapshot, UsageError for a range that it
    does not have, SourceError where there is no memory for its table.
    """
    objects = open_objects(url)
    image = open_either(url, second, name)
    taken = _within(image, offset, length)
    page, pages = offset // PAGE, -(-taken // PAGE)
    table = _TABLES.get((image.digest, page, pages))
    if table is None:
        table = build(image, page, pages)
        if len(table) <= _MOST_KEPT:
            _TABLES.put((image.digest, page, pages), table)
    try:
        fd = sealed(table)
    except OSError as error:
        why = growing(error)
        raise SourceError(
            f"cannot put the table of snapshot {name!r} into memory",
            cause=why.cause,
            cure=why.cure or f"free {len(table)} bytes of memory, or raise `ulimit -n`",
        ) from None
    spec = StoreSpec.of(
        objects.url,
        name,
        length=taken,
        digest=image.digest,
        second=None if second is None else open_objects(second).url,
        cache=os.path.abspath(folder_of(cache)) if cache else cache,
        cache_size=cache_size,
    )
    return Resolved(spec, fd)


def _within(image: Image, offset: int, length: int | None) -> int:
    """How many bytes are taken."""
    if offset < 0 or offset % PAGE:
        raise UsageError(
            f"offset={offset}",
            cause=f"offsets into a snapshot must be multiples of {PAGE}",
            cure="round it down and skip the first bytes",
        )
    left = image.length - offset
    taken = left if length is None else length
    if not 0 < taken <= left:
        raise UsageError(
            f"{taken} bytes at offset {offset} of snapshot {image.name!r}",
            cause=f"it has {image.length} bytes",
            cure="pass a range within it, of at least one byte",
        )
    return taken
