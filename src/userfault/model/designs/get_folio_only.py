"""September 2025: two masks and a function that finds a cached folio; COPY comes later.

CONTINUE is served for any type.  MISSING stays with the types that the core knows: their
functions are the core's own, as before.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from userfault.model.designs.design import Design, by_mask, of_the_core, unknown
from userfault.model.files.folio import Folio, Object
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD
from userfault.model.memtypes.ops import MemoryOps, UffdOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.uapi import userfaultfd as abi

EVERY_MODE = (
    abi.UFFDIO_REGISTER_MODE_MISSING
    | abi.UFFDIO_REGISTER_MODE_WP
    | abi.UFFDIO_REGISTER_MODE_MINOR
    | abi.UFFDIO_REGISTER_MODE_RWP
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What a type says (v3 of the series)."""

    uffd_features: int  # modes
    uffd_ioctls: int  # bits of ioctls
    uffd_get_folio: Callable[[Object, int], Folio] | None = None


TABLES = {
    SHMEM.name: Table(
        uffd_features=EVERY_MODE,
        uffd_ioctls=-1,
        uffd_get_folio=SHMEM.uffd.get_folio_noalloc,
    ),
    GUEST_MEMFD.name: Table(
        uffd_features=abi.UFFDIO_REGISTER_MODE_MINOR,
        uffd_ioctls=1 << abi._UFFDIO_CONTINUE | 1 << abi._UFFDIO_WAKE | 1 << abi._UFFDIO_POISON,
        uffd_get_folio=GUEST_MEMFD.uffd.get_folio_noalloc,
    ),
}


def _calls(ops: MemoryOps) -> MemoryOps:
    table = ops.says.get(GET_FOLIO_ONLY.name) or TABLES.get(ops.name)
    if table is None:
        return unknown(ops) if of_the_core(ops) is None else replace(ops, says={})
    if ops.name in TABLES and ops.uffd.can_userfault is None:
        return unknown(ops)
    uffd = UffdOps(
        can_userfault=by_mask(table.uffd_features), get_folio_noalloc=table.uffd_get_folio
    )
    if ops.name == SHMEM.name:  # what fills a missing page is the core's, as before
        uffd = replace(
            uffd,
            alloc_folio=SHMEM.uffd.alloc_folio,
            filemap_add=SHMEM.uffd.filemap_add,
            filemap_remove=SHMEM.uffd.filemap_remove,
        )
    zeropage = bool(table.uffd_ioctls & 1 << abi._UFFDIO_ZEROPAGE)
    return replace(
        ops,
        uffd=uffd,
        zeropage=zeropage,
        ioctls=table.uffd_ioctls,
        unchecked=True,
        says={},
        runs={},
    )


GET_FOLIO_ONLY = Design(
    name="get_folio_only",
    sentence="two masks and a function that finds a cached folio: CONTINUE for every type, COPY"
    " later",
    source="Nikita Kalyazin, 2025-09-01; v3 of the series (linux-mm, 2025-09-26)",
    calls=_calls,
    table=Table,
    says_guest_memfd=False,
)
