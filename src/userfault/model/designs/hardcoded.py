"""Before the series: the core knows three types, and asks at each place which one it has.

A type says nothing, and one that the core does not know cannot be served.
"""

from __future__ import annotations

from msgspec.structs import replace

from userfault.model.designs.design import Design, of_the_core, unknown
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.shmem import SHMEM


def _calls(ops: MemoryOps) -> MemoryOps:
    own = of_the_core(ops)
    if own is None and ops.name == SHMEM.name:  # vma_is_shmem()
        own = SHMEM
    return unknown(ops) if own is None else replace(ops, uffd=own.uffd, says={}, runs={})


HARDCODED = Design(
    name="hardcoded",
    sentence="the core asks at each place whether it has anonymous memory, shmem or hugetlb",
    source="mm/userfaultfd.c up to 7.0",
    calls=_calls,
    says_guest_memfd=False,
)
