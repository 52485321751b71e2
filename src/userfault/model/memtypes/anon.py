"""Anonymous memory: private, no page cache; also the private pages of every 4 KiB mapping."""

from __future__ import annotations

from userfault.model.files.folio import ANON, Folio
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps, Where
from userfault.uapi.userfaultfd import UFFDIO_REGISTER_MODE_MINOR


def _can_userfault(facts: Facts) -> bool:
    return not facts.modes & UFFDIO_REGISTER_MODE_MINOR


def _alloc(where: Where) -> Folio | None:
    return where.memory.allocate(0, ANON, where.cgroup)


ANONYMOUS = MemoryOps(
    name="anon",
    uffd=UffdOps(can_userfault=_can_userfault, alloc_folio=_alloc),
    private_folio=_alloc,
    zero_page=True,
    movable=True,
)
