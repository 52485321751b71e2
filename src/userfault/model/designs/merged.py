"""Mike Rapoport's table, which 7.1 has: five hooks, and the core alone touches entries.

`can_userfault`, `get_folio_noalloc`, `alloc_folio`, `filemap_add`, `filemap_remove`.  hugetlb's
table has `can_userfault` and no more: its fills are a loop of the core's own.  Linux does not look
at what a hook returned, nor does this core.
"""

from __future__ import annotations

from msgspec.structs import replace

from userfault.model.designs.design import Design
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import MemoryOps, UffdOps

# What hugetlb says: the rest of its table is what the core does for it.
HUGETLB_SAYS = UffdOps(can_userfault=HUGETLB.uffd.can_userfault)


def calls(ops: MemoryOps) -> MemoryOps:
    """What a type says is what the core calls, but for hugetlb."""
    ops = replace(ops, says={}, runs={}, unchecked=True)
    if not ops.pool:
        return ops
    says = HUGETLB_SAYS if ops.uffd.can_userfault is not None else UffdOps()
    return replace(ops, uffd=replace(HUGETLB.uffd, can_userfault=says.can_userfault))


MERGED = Design(
    name="merged",
    sentence="five hooks of facts and folios; the core copies, installs, retries and wakes",
    source="mm, kvm: allow uffd support in guest_memfd (linux-mm, 2026-01-27); in 7.1",
    calls=calls,
    table=UffdOps,
    exports=("filemap_remove_folio()",),
)
