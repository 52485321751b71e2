"""What a pack that failed has stored in vain, and what those that were killed have left behind."""

from __future__ import annotations

from collections.abc import Iterator

from userfault.snapshot.packing.storing import Storing
from userfault.snapshot.packing.sweep import sweep
from userfault.snapshot.stores.keys import CHUNKS, INDEX, chunk_key, piece_writer
from userfault.snapshot.stores.leases import Lease, Seen
from userfault.snapshot.stores.objects import Listed, Objects

_CLOCK_SLACK = 2.0  # seconds: granularity of a store's modification times


def remove_leftovers(
    objects: Objects, lease: Lease, dead: list[Seen], failed: Storing | None
) -> None:
    """Remove what the `dead` have left, and what this pack has, where it `failed`.

    Not while anybody else is there, who may refer to it: then `gc` will.  Raises StoreError, and
    FormatError where a manifest cannot be read.
    """
    if not dead and (failed is None or not failed.count):
        return
    lease.to_sweeper()
    if lease.alive():
        return
    if failed is not None:
        objects.delete(failed.pieces)
    ids = {other.id for other in dead}
    objects.delete([piece.key for piece in objects.list(INDEX) if piece_writer(piece.key) in ids])
    sweep(objects, _chunks(objects, dead, failed), renew=lease.renew)
    for other in dead:
        lease.bury(other)


def _chunks(objects: Objects, dead: list[Seen], failed: Storing | None) -> Iterator[Listed]:
    """Those that may be of no use to anybody."""
    if failed is not None:
        for number in range(failed.first, len(failed.chunks)):
            stored_length = failed.chunks.stored_length(number)
            if stored_length:  # it came as far as the store
                yield Listed(chunk_key(failed.chunks.digest(number)), stored_length, 0.0)
    if dead:
        since = min(other.since for other in dead) - _CLOCK_SLACK
        for listed in objects.list(CHUNKS):
            if listed.modified >= since:
                yield listed
