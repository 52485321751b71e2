"""What one proposal for userfaultfd's interface to memory types consists of."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps


class Design(msgspec.Struct, frozen=True, eq=False):
    """A strategy of dispatch.

    What a type says in a design has the shape that the design gives it (its `table`).  `calls`
    turns that, once for each type when a machine is made, into what the core's one loop calls: the
    functions of a page (`MemoryOps.uffd`), and the operations that the type runs itself
    (`MemoryOps.runs`).
    """

    name: str
    sentence: str
    source: str  # where it was proposed
    calls: Callable[[MemoryOps], MemoryOps]
    table: type[msgspec.Struct] | None = (
        None  # the shape of what a type says; None: it says nothing
    )
    exports: tuple[str, ...] = ()  # what of the core a type outside of it would have to call
    bugs: frozenset[str] = frozenset()  # of the core as it was proposed (`Config.bugs`)
    says_guest_memfd: bool = True  # the feature bit of `next` holds


def unknown(ops: MemoryOps) -> MemoryOps:
    """The type, as one that userfaultfd does not know."""
    return replace(ops, uffd=UffdOps(), says={}, runs={})


def of_the_core(ops: MemoryOps) -> MemoryOps | None:
    """Whose functions the core has always had for this type: those of anonymous memory or hugetlb.

    (is_vm_hugetlb_page(), vma_is_anonymous().)
    """
    if ops.pool:
        return HUGETLB
    return ANONYMOUS if ops.fault_folio is None else None


def by_mask(features: int) -> Callable[[Facts], bool]:
    """A type that answers with a mask of modes: the same for every file of it."""

    def can_userfault(facts: Facts) -> bool:
        return not facts.modes & ~features

    return can_userfault
