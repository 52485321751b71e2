"""Lorenzo Stoakes' closed choice: a type picks one of the core's own functions, and hands out none.

An enum says which; flags say for which actions, and what stands in where nothing is copied.  What
the core has no function for, a type cannot have: guest_memfd's would have to live in mm.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec.structs import replace

from userfault.model.designs.design import Design, unknown
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import MemoryOps, UffdOps
from userfault.model.memtypes.shmem import SHMEM


class Handler(enum.Enum):
    """The core's functions that there are to choose from."""

    ANONYMOUS = "new private pages"
    PAGE_CACHE = "base pages in the page cache of a file"
    HUGETLB = "pages of a pool, with their promises"
    GUEST = "page cache that is asked for each index whether the host may see it"


class Action(enum.Flag):
    """What may be asked of the handler."""

    FILL = 1
    CONTINUE = 2


class Fallback(enum.Enum):
    """What ZEROPAGE puts where nothing is copied."""

    NONE = "ZEROPAGE is not supported"
    ZEROS = "a page of zeros, or the zero page in a private mapping"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All that a type says."""

    handler: Handler
    actions: Action
    fallback: Fallback = Fallback.ZEROS


TABLES = {
    ANONYMOUS.name: Table(handler=Handler.ANONYMOUS, actions=Action.FILL),
    SHMEM.name: Table(handler=Handler.PAGE_CACHE, actions=Action.FILL | Action.CONTINUE),
    HUGETLB.name: Table(
        handler=Handler.HUGETLB, actions=Action.FILL | Action.CONTINUE, fallback=Fallback.NONE
    ),
    GUEST_MEMFD.name: Table(handler=Handler.GUEST, actions=Action.FILL | Action.CONTINUE),
}

_FUNCTIONS = {
    Handler.ANONYMOUS: ANONYMOUS.uffd,
    Handler.PAGE_CACHE: SHMEM.uffd,
    Handler.HUGETLB: HUGETLB.uffd,
    Handler.GUEST: GUEST_MEMFD.uffd,
}


def _calls(ops: MemoryOps) -> MemoryOps:
    table = ops.says.get(CLOSED_CHOICE.name) or TABLES.get(ops.name)
    if table is None or (ops.name in TABLES and ops.uffd.can_userfault is None):
        known = ops.name == "droppable" or ops.pool  # by their mappings' flags, as before
        return replace(ops, says={}) if known else unknown(ops)
    if not _fits(ops, table.handler):
        return unknown(ops)
    uffd: UffdOps = _FUNCTIONS[table.handler]
    if not table.actions & Action.CONTINUE:
        uffd = replace(uffd, get_folio_noalloc=None)
    zeropage = table.fallback is not Fallback.NONE
    return replace(ops, uffd=uffd, zeropage=zeropage, says={}, runs={})


def _fits(ops: MemoryOps, handler: Handler) -> bool:
    """Whether the core's handler is one for this memory: the set is closed, so it can tell."""
    if handler is Handler.HUGETLB:
        return ops.pool
    return (ops.fault_folio is None) is (handler is Handler.ANONYMOUS) and not ops.pool


CLOSED_CHOICE = Design(
    name="closed_choice",
    sentence="the type picks one of the core's own functions by an enum, with flags for the action"
    " and the fallback",
    source="Lorenzo Stoakes in the thread of v2 (linux-mm, 2025-07)",
    calls=_calls,
    table=Table,
)
