"""Memory that userfaultfd does not serve: ordinary files, SysV segments, MAP_DROPPABLE, vvar."""

from __future__ import annotations

from msgspec.structs import replace

from userfault.model.memtypes import pagecache
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import MemoryOps

ORDINARY = MemoryOps(
    name="file",
    fault_folio=pagecache.fault,
    cached=pagecache.cached,
    preallocate=pagecache.preallocate,
    private=ANONYMOUS,
    zero_page=True,
    size_checked_at_entry=True,
    fault_around=True,
)

SYSV = MemoryOps(
    name="sysv",
    segment=True,
    fault_folio=pagecache.fault,
    cached=pagecache.cached,
    preallocate=pagecache.preallocate,
    private=ANONYMOUS,
    size_checked_at_entry=True,
    fault_around=True,
)

# Up to 6.18 "is it a hugetlb VMA" was asked of the mapping, and a SysV segment of huge pages was
# one.  With the table (7.1) it is asked of vm_ops, and a segment has its own, without a table.
SYSV_HUGETLB_RECOGNISED = replace(HUGETLB, name="sysv-hugetlb", segment=True)
SYSV_HUGETLB = SYSV_HUGETLB_RECOGNISED.with_uffd(can_userfault=None)

DROPPABLE = MemoryOps(
    name="droppable", private_folio=ANONYMOUS.private_folio, zero_page=True, movable=True
)
DROPPABLE_RECOGNISED = replace(ANONYMOUS, name="droppable")

# vdso and vvar: no page of theirs can be replaced.
SPECIAL = MemoryOps(name="special", private_folio=ANONYMOUS.private_folio)
