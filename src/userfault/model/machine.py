"""What all processes of one modelled kernel share."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from userfault.model.designs.catalogue import design_named
from userfault.model.files.folio import Mount
from userfault.model.files.inode import Inode
from userfault.model.files.memory import Memory
from userfault.model.files.pagecache import PageCache
from userfault.model.files.segments import Segments
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.guest_memfd import (
    GUEST_MEMFD,
    GUEST_MEMFD_POSTED,
    GUEST_MEMFD_RELEASED,
)
from userfault.model.memtypes.hugetlb import HUGETLB, HUGETLB_UNCHECKED
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.others import (
    DROPPABLE,
    DROPPABLE_RECOGNISED,
    ORDINARY,
    SPECIAL,
    SYSV,
    SYSV_HUGETLB,
    SYSV_HUGETLB_RECOGNISED,
)
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.mm.address_space import Spaces
from userfault.model.mm.userfaultfd_k import Absent
from userfault.model.profiles import NEXT, Config, Profile
from userfault.model.tasks.sched import Sched, Scheduler
from userfault.model.tasks.strategies import InOrder
from userfault.model.uffd.hooks import Hooks


class Machine:
    """The kernel's own state: memory, memory types, the processor, what version it is."""

    def __init__(
        self,
        profile: Profile = NEXT,
        config: Config | None = None,
        *,
        scheduler: Scheduler | None = None,
        trace: bool = False,
        types: Iterable[MemoryOps] = (),
        memfd: str = SHMEM.name,
    ) -> None:
        config = config or Config()
        self.design = design_named(config.design)
        if self.design.bugs - config.bugs:
            config = replace(config, bugs=config.bugs | self.design.bugs)
        if not self.design.says_guest_memfd and profile.says_guest_memfd:
            profile = replace(profile, says_guest_memfd=0)
        self.profile = profile
        self.config = config
        self.bugs = config.bugs  # asked where the kernel had them
        self.sched = Sched(scheduler or InOrder(), trace=trace)
        self.memory = Memory(config.limit_pages)
        self.files = PageCache(self.sched, self.memory)
        userfaultfd = Hooks() if config.userfaultfd else Absent()
        self.spaces = Spaces(profile, config, self.files, userfaultfd)
        self.types = {ops.name: ops for ops in _types(profile, config.bugs)}
        self.types.update((ops.name, ops) for ops in types)
        self.types = {name: self.design.calls(ops) for name, ops in self.types.items()}
        self.memfd = self.types[memfd].name  # of which type the files of memfd_create(2) are
        self.segments = Segments(self.files, self.types["sysv"], self.types["sysv-hugetlb"])
        # Virtual machines by the file that is their memory (`faces.guest`).
        self.guests: dict[Inode, object] = {}
        self.unprivileged_userfaultfd = config.unprivileged_userfaultfd

    def object(
        self, kind: str, size: int, *, shift: int = 12, mount: Mount | None = None, traits: int = 0
    ) -> Inode:
        """A new file of a registered memory type, with one link that the caller holds."""
        return self.files.create(self.types[kind], size, shift=shift, mount=mount, traits=traits)

    def type_of(self, target: Inode) -> MemoryOps:
        """The whole table of a file's memory type."""
        return self.types[target.kind.name]


def _types(profile: Profile, bugs: frozenset[str]) -> list[MemoryOps]:
    guest_memfd = GUEST_MEMFD if profile.guest_memfd_userfault else GUEST_MEMFD_RELEASED
    if "guest-memfd-stale" in bugs:
        guest_memfd = GUEST_MEMFD_POSTED
    droppable = profile.droppable_registers or "registers-droppable" in bugs
    return [
        ANONYMOUS,
        SHMEM,
        HUGETLB if "huge-fill-beyond-end" not in bugs else HUGETLB_UNCHECKED,
        guest_memfd,
        ORDINARY,
        SYSV,
        SYSV_HUGETLB_RECOGNISED if profile.sysv_hugetlb else SYSV_HUGETLB,
        DROPPABLE_RECOGNISED if droppable else DROPPABLE,
        SPECIAL,
    ]
