"""The counter-proposal: one function an operation, for every type; None means unsupported.

Each is given a `uffd_info` (here `Hand`).  Of the ten hooks of the working branch `writeprotect`,
`increment`, `failed_do_unlock` and `complete_register` have one value for all types of the model,
so that the core keeps them; `page_shift` is the mapping's.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from userfault.model.designs.design import Design, unknown
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.uffd import pages
from userfault.model.uffd.hand import Hand, cont, handed, poison, through
from userfault.uapi import userfaultfd as abi

Run = Callable[[Hand], None]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What a type says."""

    is_dst_valid: Callable[[Facts], bool]
    copy: Run | None = None
    zeropage: Run | None = None
    cont: Run | None = None
    poison: Run | None = poison


def table(ops: MemoryOps) -> Table:
    """What a type says that is written well, from its functions."""
    assert ops.uffd.can_userfault is not None
    return Table(
        is_dst_valid=ops.uffd.can_userfault,
        copy=through(ops),
        zeropage=through(ops) if ops.zeropage else None,
        cont=cont(ops) if ops.uffd.get_folio_noalloc is not None else None,
    )


TABLES = {ops.name: table(ops) for ops in (ANONYMOUS, SHMEM, HUGETLB, GUEST_MEMFD)}
_SAME = {"droppable": ANONYMOUS.name, "sysv-hugetlb": HUGETLB.name}


def _calls(ops: MemoryOps) -> MemoryOps:
    said = ops.says.get(PER_OPERATION.name) or TABLES.get(_SAME.get(ops.name, ops.name))
    if said is None:
        return unknown(ops)
    if not ops.says and ops.uffd.can_userfault is None and not ops.pool:
        return unknown(ops)
    named = {
        pages.COPY.name: said.copy,
        pages.ZEROPAGE.name: said.zeropage,
        pages.CONTINUE.name: said.cont,
        pages.POISON.name: said.poison,
    }
    runs = {name: handed(name, run) for name, run in named.items() if run is not None}
    recognised = ops.says or ops.uffd.can_userfault is not None
    uffd = UffdOps(can_userfault=_decides(said) if recognised else None)
    return replace(
        ops, uffd=uffd, runs=runs, zeropage=said.zeropage is not None, unchecked=True, says={}
    )


def _decides(said: Table) -> Callable[[Facts], bool]:
    """A mode is supported where the function is there that serves it."""

    def can_userfault(facts: Facts) -> bool:
        missing = facts.modes & abi.UFFDIO_REGISTER_MODE_MISSING and said.copy is None
        minor = facts.modes & abi.UFFDIO_REGISTER_MODE_MINOR and said.cont is None
        return not missing and not minor and said.is_dst_valid(facts)

    return can_userfault


PER_OPERATION = Design(
    name="per_operation",
    sentence="one function an operation for every type, which does all of it",
    source="Liam Howlett, sketch of 2025-10-07 and the branch of 2025-10-30 (linux-mm)",
    calls=_calls,
    table=Table,
    exports=("about ten helpers: install an entry, copy, let go and try again, poison, ...",),
)
