"""Storing tracked memory, as a layer on what was stored of it before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from userfault.api.memory_input import MemoryInput, Part
from userfault.api.point import Stopper
from userfault.snapshot.errors import StoreError
from userfault.snapshot.packing.pack import LEVEL, Packed, pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.upkeep.squash import squash

_MOST_LAYERS = 64  # each is an object to read when the snapshot is opened


class Update(msgspec.Struct, frozen=True):
    """What was stored.

    `name` lies on `base` (nothing: it is whole).  Of `pages` pages `read` were read, since they may
    have been written, and `stored` were new to the store, which has grown by `bytes`.
    `stopped_s`: for how long the threads of the program stood still at once, in seconds; `held_s`:
    in all, where they were held several times since they wrote faster than that could be copied.
    """

    name: str
    base: str
    pages: int
    read: int
    stored: int
    bytes: int
    stopped_s: float
    held_s: float = 0.0


def update(
    objects: Objects,
    name: str,
    parts: Sequence[Part],
    *,
    kind: str,
    base: str | None,
    stopper: Stopper | None,
    about: Mapping[str, str] | None = None,
    level: int = LEVEL,
    alone: bool = False,
) -> Update:
    """Store `parts` as the snapshot `name`: what is dirty of them, and the rest as in `base`.

    Then nothing of them is dirty.  Where it fails, everything is as dirty as before, and there is
    no snapshot `name`.  `alone`: it is not to lie on others, whatever came from them.

    Raises what `pack` does; SourceError for a page that cannot be read; Unavailable, PagerError
    where this program cannot be stopped.
    """
    with contextlib.closing(MemoryInput(kind, parts, about or {}, stopper)) as pages:
        packed = pack(objects, name, pages, base=base, level=level)
    for part in parts:
        part.dirty = []
        part.based = True
    if base is not None and (alone or _layers(objects, name) > _MOST_LAYERS):
        with contextlib.suppress(StoreError):  # it is stored; the next one tries again
            squash(objects, name)
            base = None
    return _told(packed, base, pages)


def _layers(objects: Objects, name: str) -> int:
    return len(open_image(objects, name).layers)


def _told(packed: Packed, base: str | None, pages: MemoryInput) -> Update:
    return Update(
        name=packed.name,
        base=base or "",
        pages=packed.pages,
        read=pages.written,
        stored=packed.stored,
        bytes=packed.bytes,
        stopped_s=pages.stopped_s,
        held_s=pages.held_s,
    )
