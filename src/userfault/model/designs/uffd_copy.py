"""The first proposal (v1 and v2): two masks, and the type copies, inserts and installs by itself.

`uffd_copy` is handed the mapping and its page table, and calls the core's helper to install the
entry.  Anonymous memory has no table and hugetlb keeps its own path; the private mapping of a
file is filled by the core.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from userfault.model.designs.design import Design, by_mask, of_the_core, unknown
from userfault.model.designs.get_folio_only import EVERY_MODE
from userfault.model.files.folio import Folio, Object
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD
from userfault.model.memtypes.ops import MemoryOps, UffdOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.mm.vma import Vma
from userfault.model.uffd import pages
from userfault.model.uffd.hand import Hand, handed, through
from userfault.model.uffd.source import Job
from userfault.uapi import userfaultfd as abi


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What a type says."""

    uffd_features: int  # modes
    uffd_ioctls: int  # bits of ioctls
    uffd_get_folio: Callable[[Object, int], Folio] | None = None
    # One page of COPY (or of ZEROPAGE): allocate, copy, insert, install, undo.
    uffd_copy: Callable[[Hand], None] | None = None


def table(ops: MemoryOps) -> Table:
    """What a page-cache type says that is written well, from its functions."""
    return Table(
        uffd_features=EVERY_MODE,
        uffd_ioctls=-1,
        uffd_get_folio=ops.uffd.get_folio_noalloc,
        uffd_copy=through(ops),
    )


TABLES = {SHMEM.name: table(SHMEM), GUEST_MEMFD.name: table(GUEST_MEMFD)}


def _calls(ops: MemoryOps) -> MemoryOps:
    said = ops.says.get(UFFD_COPY.name) or TABLES.get(ops.name)
    if said is None:
        return unknown(ops) if of_the_core(ops) is None else replace(ops, says={})
    if ops.name in TABLES and ops.uffd.can_userfault is None:
        return unknown(ops)
    uffd = UffdOps(
        can_userfault=by_mask(said.uffd_features),
        get_folio_noalloc=said.uffd_get_folio,
        alloc_folio=ANONYMOUS.uffd.alloc_folio,  # of private mappings: the core's
    )
    runs = {
        operation.name: _shared(operation, said.uffd_copy)
        for operation in (pages.COPY, pages.ZEROPAGE)
        if said.uffd_copy is not None
    }
    zeropage = bool(said.uffd_ioctls & 1 << abi._UFFDIO_ZEROPAGE)
    return replace(
        ops,
        uffd=uffd,
        runs=runs,
        zeropage=zeropage,
        ioctls=said.uffd_ioctls,
        unchecked=True,
        says={},
    )


def _shared(
    operation: pages.Operation, uffd_copy: Callable[[Hand], None]
) -> Callable[[Job, Vma, int], None]:
    """The test that stays in the core: private memory is its own, shared memory the type's."""
    theirs = handed(operation.name, uffd_copy)

    def run(job: Job, vma: Vma, address: int) -> None:
        (theirs if vma.shared else operation.page)(job, vma, address)

    return run


UFFD_COPY = Design(
    name="uffd_copy",
    sentence="the type copies, inserts and installs by itself, with the page table in its hand",
    source="Peter Xu, mm/userfaultfd: modulize memory types, v1 and v2 (linux-mm, 2025-06)",
    calls=_calls,
    table=Table,
    exports=("mfill_atomic_install_pte()",),
)
