"""Removing what nobody refers to, safe against packs that run at the same time.

What can go wrong is that a chunk is deleted to which somebody is about to refer.  A pack comes to
refer to a chunk because it stored it, or because the index named it.  The argument that neither is
deleted under it:

1. Packs, squashes and removals *share* the store, `gc` *sweeps* it (`leases`).  Each announces
   itself before it looks for others.  So if a pack and a `gc` overlap, the `gc` sees the pack
   before it has marked anything, and stops; or the pack sees the `gc` before it has read any index
   or stored any chunk, and waits until that has ended.
2. So marking and deleting happen while no pack is under way: every reference is in a manifest,
   which marking reads; a manifest that cannot be read stops the `gc`.  A pack that comes after
   learns of chunks from the index only, which names none that was deleted, since the index is
   mended before the first deletion, and stores every chunk that it does not find there.
3. A lease that seems abandoned is ignored.  On the same machine that is exact (the process is
   gone).  From another one it means that for EXPIRY seconds, by the clock of the store, the lease
   was not renewed.  A pack that stood still for half of that knows it by its own clock and fails
   before it writes its manifest, or takes it back if it had stood still while it wrote it.
4. What is left are writers that hold no lease (a copy of another store under way) and stores whose
   listings lag behind: chunks younger than `grace_s` are never deleted.  A chunk whose date is
   further ahead than that says nothing of its age (a clock was set back, or a copy kept dates): if
   nobody refers to it, it is written anew, and goes with a later `gc` by its new date.

A `gc` that is killed leaves an index that names less than there is, and its lease, which is seen to
be a dead one's.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import msgspec

from userfault.snapshot.errors import NoSuchObject, SnapshotInUse
from userfault.snapshot.format.chunk import MOST_STORED
from userfault.snapshot.packing.sweep import referred, sweep
from userfault.snapshot.stores.keys import CHUNKS, chunk_digest
from userfault.snapshot.stores.leases import Lease
from userfault.snapshot.stores.objects import Listed, Objects

GRACE_S = 3600.0
_PAUSE_S = (0.1, 1.0)

# (chunks looked at, None: how many there are is not known before)
Progress = Callable[[int, int | None], None]


class Collected(msgspec.Struct, frozen=True):
    """What was removed, or with `dry_run` would be.

    `kept_young`: garbage within the grace age.  `redated`: of those, chunks whose date lay ahead
    and is that of now.
    """

    chunks: int
    chunk_bytes: int
    kept: int
    kept_young: int
    index_pieces: int
    dead_leases: int
    dry_run: bool
    redated: int = 0


def gc(
    objects: Objects,
    *,
    dry_run: bool = False,
    grace_s: float = GRACE_S,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> Collected:
    """Remove chunks, and rows of the index, that no snapshot refers to.

    `grace_s`: the age in seconds, by the clock of the store, from which on a chunk can be garbage.
    `wait_s`: how long to try again while packs run.

    Raises SnapshotInUse where a pack runs, FormatError where a manifest cannot be read (then
    nothing is removed), StoreError.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            with Lease(objects, "gc", shares=False) as lease:
                # Nobody goes first: of two sweepers that start at once, both may have to stop.
                lease.wait_for(lambda _: True, 0)
                return _collect(objects, lease, dry_run, grace_s, progress)
        except SnapshotInUse:
            if time.monotonic() >= end:
                raise
        time.sleep(random.uniform(*_PAUSE_S))


def _collect(
    objects: Objects, lease: Lease, dry_run: bool, grace_s: float, progress: Progress | None
) -> Collected:
    dead = [other for other in lease.others() if not other.alive]
    now = lease.store_time()
    there: set[bytes] = set()
    young = seen = 0
    ahead: list[Listed] = []

    def old_ones() -> Iterator[Listed]:
        nonlocal young, seen
        for listed in objects.list(CHUNKS):
            digest = chunk_digest(listed.key)
            if digest is None:
                continue
            there.add(digest)
            seen += 1
            if progress:
                progress(seen, None)
            if not grace_s or now - listed.modified >= grace_s:
                yield listed
                continue
            young += 1
            if listed.modified - now > grace_s:
                ahead.append(listed)

    swept = sweep(objects, old_ones(), there=there.__contains__, dry_run=dry_run, renew=lease.renew)
    redated = 0
    if not dry_run:
        redated = _redate(objects, ahead, lease.renew)
        for other in dead:
            lease.bury(other)
    return Collected(
        chunks=swept.chunks,
        chunk_bytes=swept.chunk_bytes,
        kept=seen - swept.chunks,
        kept_young=young,
        index_pieces=swept.index_pieces,
        dead_leases=len(dead),
        dry_run=dry_run,
        redated=redated,
    )


def _redate(objects: Objects, ahead: list[Listed], renew: Callable[[], None]) -> int:
    """Write chunks anew to which nobody refers: from now on their dates are right.  How many."""
    if not ahead:
        return 0
    marked = referred(objects)
    done = 0
    for listed in ahead:
        renew()
        digest = chunk_digest(listed.key)
        if digest in marked or listed.size > MOST_STORED:
            continue
        with contextlib.suppress(NoSuchObject):
            objects.put(listed.key, objects.get(listed.key, most=MOST_STORED))
            done += 1
    return done
