"""shmem: memfd, tmpfs, shared anonymous memory, shared /dev/zero."""

from __future__ import annotations

from userfault.model.memtypes import pagecache
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.ops import MemoryOps, UffdOps

SHMEM = MemoryOps(
    name="shmem",
    uffd=UffdOps(
        can_userfault=pagecache.every_mode,
        get_folio_noalloc=pagecache.lookup,
        alloc_folio=pagecache.allocate,
        filemap_add=pagecache.add,
        filemap_remove=pagecache.remove,
    ),
    fault_folio=pagecache.fault,
    cached=pagecache.cached,
    preallocate=pagecache.preallocate_again,
    private=ANONYMOUS,
    zero_page=True,
    size_checked_at_entry=True,
    fault_around=True,
    small_hole_unmaps_all=True,
)
