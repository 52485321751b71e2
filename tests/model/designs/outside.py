"""A type from outside of the core that says what it has to say in each design."""

from __future__ import annotations

from msgspec.structs import replace

from userfault.model.designs import closed_choice, get_folio_only, per_operation, uffd_copy
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.uapi import userfaultfd as abi

NAME = "outside"

OUTSIDE: MemoryOps = replace(
    SHMEM,
    name=NAME,
    says={
        "uffd_copy": uffd_copy.table(SHMEM),
        "get_folio_only": get_folio_only.Table(
            uffd_features=abi.UFFDIO_REGISTER_MODE_MINOR,
            uffd_ioctls=1 << abi._UFFDIO_CONTINUE | 1 << abi._UFFDIO_WAKE,
            uffd_get_folio=SHMEM.uffd.get_folio_noalloc,
        ),
        "per_operation": per_operation.table(SHMEM),
        "closed_choice": closed_choice.Table(
            handler=closed_choice.Handler.PAGE_CACHE,
            actions=closed_choice.Action.FILL | closed_choice.Action.CONTINUE,
        ),
    },
)
