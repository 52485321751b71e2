"""The name that a pack is to give, which others may want or use at the same time."""

from __future__ import annotations

from userfault.snapshot.errors import AlreadyThere, SnapshotInUse, StoreError, StoreFull
from userfault.snapshot.format import manifest
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.leases import Lease, Seen
from userfault.snapshot.stores.objects import Objects


class Claim:
    """A snapshot's name in a store, for the holder of `lease`."""

    def __init__(self, objects: Objects, name: str, lease: Lease) -> None:
        self._objects = objects
        self._name = name
        self._key = snapshot_key(name)
        self._lease = lease
        # The manifest was put, and nobody knows whether it came through: what it refers to must
        # stay, until `gc` knows.
        self.unsure = False

    def wait(self, base: str | None) -> list[Seen]:
        """Return when nobody sweeps; those who were killed in the store and have left things.

        Raises SnapshotInUse where somebody else's work and ours exclude each other, or there is
        such a snapshot.
        """
        others = self._lease.others()
        self._check_others(others, base)
        self._lease.wait_for_sweepers()
        check_free(self._objects, self._name)
        return [other for other in others if not other.alive]

    def put(self, data: bytes) -> None:
        """Write the manifest: from now on there is the snapshot.

        Raises SnapshotInUse where somebody else was faster, StoreError, StoreFull.
        """
        self._lease.check()
        # Some object stores cannot put an object only if it is new: look once more.
        self._check_others(self._lease.others(), None)
        check_free(self._objects, self._name)
        self._put(data)
        try:
            self._lease.check()
        except StoreError:
            self._objects.delete([self._key])
            raise

    def _put(self, data: bytes) -> None:
        try:
            self._objects.put(self._key, data, new=True)
        except AlreadyThere:
            # A request may have come through whose answer was lost, and was made again.
            if self._objects.get(self._key, most=manifest.MOST_STORED) != data:
                raise _taken(self._objects, self._name) from None
        except StoreFull:
            raise
        except StoreError:
            self.unsure = True
            raise

    def _check_others(self, others: list[Seen], base: str | None) -> None:
        for other in others:
            holder = other.holder
            if holder.doing == "pack":  # the one that began first may go on
                hinders = holder.name == self._name and other.id < self._lease.id
            else:
                hinders = holder.name in (self._name, base)
            if other.alive and hinders:
                raise SnapshotInUse(
                    f"cannot pack {self._name!r} into {self._objects.url} now",
                    cause=f"{other} is running",
                    cure="wait until it has ended, or choose another name",
                )


def check_free(objects: Objects, name: str) -> None:
    """Raise SnapshotInUse where there is such a snapshot."""
    if objects.exists(snapshot_key(name)):
        raise _taken(objects, name)


def _taken(objects: Objects, name: str) -> SnapshotInUse:
    return SnapshotInUse(
        f"there is a snapshot {name!r} in {objects.url} already",
        cause="a name means one image, for ever: other snapshots may lie on it",
        cure="choose another name, or remove that one first",
    )
