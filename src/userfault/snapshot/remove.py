"""Removing a snapshot: its manifest goes; its chunks are `gc`'s."""

from __future__ import annotations

import contextlib

from userfault.kernel.errors import UserfaultError
from userfault.snapshot import sweep
from userfault.snapshot.errors import NoSuchSnapshot, SnapshotInUse
from userfault.snapshot.keys import snapshot_key
from userfault.snapshot.leases import Lease
from userfault.snapshot.objects import Objects


def remove(objects: Objects, name: str) -> None:
    """Remove the snapshot `name`, be it damaged or not.

    Raises NoSuchSnapshot, StoreError; SnapshotInUse while another one lies on it, or is being
    packed on it; FormatError where a manifest of another cannot be read, since that may lie on it.
    """
    key = snapshot_key(name)
    lease = Lease(objects, "removal", name=name)
    try:
        alone_with(objects, lease, name)
        if not objects.exists(key):
            raise NoSuchSnapshot(
                f"there is no snapshot {name!r} in {objects.url}",
                cure="`userfault ls` lists those that are there",
            )
        objects.delete([key])
    finally:
        with contextlib.suppress(UserfaultError):
            lease.release()


def alone_with(objects: Objects, lease: Lease, name: str) -> None:
    """SnapshotInUse unless nobody else needs the manifest of `name` as it is.

    Whoever starts to lie on it after this sees our lease.
    """
    for other in lease.alive():
        if name in (other.holder.name, other.holder.base):
            raise SnapshotInUse(
                f"the snapshot {name!r} of {objects.url} is in use",
                cause=f"{other} is running",
                cure="wait until that has ended",
            )
    for above in sweep.layers(objects, but=name):
        base = above.manifest.base
        if base is not None and base.name == name:
            raise SnapshotInUse(
                f"the snapshot {name!r} of {objects.url} is in use",
                cause=f"{above.name!r} lies on it",
                cure=f"squash {above.name!r} first",
            )
