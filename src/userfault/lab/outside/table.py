"""The memory type of `userfault_outside.c` as the model has it: a fifth type.

It keeps all that shmem keeps.  It differs where it does less: it cannot be swapped out, pages that
fallocate(2) makes are zeroed at once, and a small hole unmaps no more than it must.
"""

from __future__ import annotations

from userfault.model.memtypes import pagecache
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.ops import MemoryOps, UffdOps

OUTSIDE = MemoryOps(
    name="outside",
    uffd=UffdOps(
        can_userfault=pagecache.every_mode,
        get_folio_noalloc=pagecache.lookup,
        alloc_folio=pagecache.allocate,
        filemap_add=pagecache.add,
        filemap_remove=pagecache.remove,
    ),
    fault_folio=pagecache.fault,
    cached=pagecache.cached,
    preallocate=pagecache.fault,  # its pages are zeroed at once
    private=ANONYMOUS,
    zero_page=True,
    size_checked_at_entry=True,
    fault_around=True,
)
