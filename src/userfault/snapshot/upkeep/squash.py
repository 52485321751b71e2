"""Flattening: a snapshot that lies on no other, of the same pages and the same chunks."""

from __future__ import annotations

import msgspec

from userfault.snapshot.errors import AlreadyThere, SnapshotInUse
from userfault.snapshot.format import envelope, manifest
from userfault.snapshot.format.manifest import Manifest
from userfault.snapshot.packing.layering import only_used, used_chunks
from userfault.snapshot.serving.image import SQUASHING, Image, open_image
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.leases import Lease
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.upkeep.remove import alone_with


class Squashed(msgspec.Struct, frozen=True):
    """What became of `layers` snapshots on top of each other."""

    name: str
    digest: str
    layers: int
    pages: int
    chunks: int
    manifest_bytes: int


def squash(objects: Objects, name: str, to: str | None = None) -> Squashed:
    """Write the snapshot `name` without its bases, as the snapshot `to` or in its own place.

    Only a manifest is written; no chunk is read.  In its own place it must not be a base itself:
    those that lie on it name the digest of its manifest.

    Raises NoSuchSnapshot, FormatError, StoreError; SnapshotInUse where `to` is taken, or where
    others lie on `name` and it is to be replaced.
    """
    target = snapshot_key(to or name)
    in_place = to is None or to == name
    # A lease as of a pack on that base: nobody removes what the new manifest will refer to.
    with Lease(objects, "squash", name=to or name, base=name) as lease:
        lease.wait_for_sweepers()
        if in_place:
            alone_with(objects, lease, name)
        image = open_image(objects, name, SQUASHING)
        flat = _flat(image)
        data = manifest.encode(flat)
        lease.check()
        try:
            if not in_place or len(image.layers) > 1:
                objects.put(target, data, new=not in_place)
                objects.flush()
        except AlreadyThere:
            raise SnapshotInUse(
                f"there is a snapshot {to!r} in {objects.url} already",
                cure="choose another name, or remove that one first",
            ) from None
    return Squashed(
        name=to or name,
        digest=envelope.digest_of(data).hex(),
        layers=len(image.layers),
        pages=image.pages,
        chunks=len(flat.chunks),
        manifest_bytes=len(data),
    )


def _flat(image: Image) -> Manifest:
    """The manifest of an image by itself."""
    used = used_chunks(image.runs, image.chunks)
    runs, chunks = only_used(image.runs, image.chunks, used)
    return msgspec.structs.replace(image.manifest, base=None, runs=runs, chunks=chunks)
