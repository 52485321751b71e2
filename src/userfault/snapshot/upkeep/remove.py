"""Removing a snapshot: its manifest goes, and its working set; its chunks are `gc`'s."""

from __future__ import annotations

from userfault.snapshot.errors import FormatError, SnapshotInUse
from userfault.snapshot.format import manifest
from userfault.snapshot.serving.layers import all_layers, read_layer
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.leases import Lease
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.working_sets.naming import set_key


def remove(objects: Objects, name: str) -> None:
    """Remove the snapshot `name`, be it damaged or not.

    Raises NoSuchSnapshot, StoreError; SnapshotInUse while another one lies on it, or is being
    packed on it; FormatError where a manifest of another cannot be read, since that may lie on it
    (not where this one cannot be read either: then nothing that lies on it can), and where what has
    the name is no manifest at all: somebody else put it there.
    """
    key = snapshot_key(name)
    with Lease(objects, "removal", name=name) as lease:
        damaged = _is_damaged(objects, name)
        alone_with(objects, lease, name, damaged=damaged)
        objects.delete([key, set_key(name)])


def _is_damaged(objects: Objects, name: str) -> bool:
    """Whether a manifest cannot be read; FormatError where it is none."""
    try:
        read_layer(objects, name)
    except FormatError as error:
        if _may_be_one(objects, name):
            return True
        raise FormatError(
            f"{name!r} in {objects.url} is no snapshot",
            cause=error.cause,
            cure=f"remove {snapshot_key(name)} there yourself, if it is not needed",
        ) from None
    return False


def _may_be_one(objects: Objects, name: str) -> bool:
    """Whether it begins as manifests alone do, but for a byte; or is zeros, as after a crash."""
    try:
        data = objects.get(snapshot_key(name), most=manifest.MOST_STORED)
    except FormatError:  # longer than any
        return False
    first = manifest.MAGIC[:4]
    same = sum(mine == its for mine, its in zip(first, data, strict=False))
    return same >= len(first) - 1 or not data.strip(b"\0")


def alone_with(objects: Objects, lease: Lease, name: str, *, damaged: bool = False) -> None:
    """SnapshotInUse unless nobody else needs the manifest of `name` as it is.

    Whoever starts to lie on it after this sees our lease.  `damaged`: others that are damaged too
    count for nothing.  Else raises FormatError for these.
    """
    for other in lease.alive():
        if name in (other.holder.name, other.holder.base):
            raise SnapshotInUse(
                f"the snapshot {name!r} of {objects.url} is in use",
                cause=f"{other} is running",
                cure="wait until that has ended",
            )
    for above in all_layers(objects, but=name, damaged=not damaged):
        base = above.manifest.base
        if base is not None and base.name == name:
            raise SnapshotInUse(
                f"the snapshot {name!r} of {objects.url} is in use",
                cause=f"{above.name!r} lies on it",
                cure=f"squash {above.name!r} first",
            )
