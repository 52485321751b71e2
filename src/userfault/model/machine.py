"""What all processes of one modelled kernel share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from userfault.model.errors import ContractBreach
from userfault.model.files.folio import LOCKED, Folio, Memory, Mount, Object
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD, GUEST_MEMFD_RELEASED
from userfault.model.memtypes.hugetlb import HUGETLB
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
from userfault.model.mm.address_space import AddressSpace
from userfault.model.profiles import NEXT, Config, Profile
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import InOrder, Sched, Scheduler, Task, Wait


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
        self.profile = profile
        self.config = config or Config()
        self.bugs = self.config.bugs  # asked where the kernel had them
        self.sched = Sched(scheduler or InOrder(), trace=trace)
        self.memory = Memory(self.config.limit_pages)
        self.spaces: dict[AddressSpace, None] = {}
        self.objects: dict[Object, None] = {}
        self.guests: list[Callable[[Object, int, int], None]] = []
        self.folio_queues: dict[Folio, deque[Task]] = {}
        self.mount = Mount()  # memfds live here
        self.types = {ops.name: ops for ops in _types(profile)}
        self.types.update((ops.name, ops) for ops in types)
        self.memfd = self.types[memfd].name  # of which type the files of memfd_create(2) are
        self.next_family = 1
        self.breaches: list[ContractBreach] = []
        self.unprivileged_userfaultfd = self.config.unprivileged_userfaultfd
        self.segments: dict[int, Object] = {}

    def object(
        self,
        kind: str,
        size: int,
        *,
        shift: int = 12,
        name: str = "",
        mount: Mount | None = None,
        traits: int = 0,
    ) -> Object:
        """A new object of a registered memory type, with one link that the caller holds."""
        ops = self.types[kind]
        blocks = (mount or self.mount) if ops.accounts_blocks else None
        label = name or f"{kind}#{len(self.objects)}"
        target = Object(label, ops, size, shift, blocks, traits)
        target.links = 1
        self.objects[target] = None
        return target

    def link(self, target: Object) -> None:
        target.links += 1

    def unlink(self, target: Object) -> None:
        """One holder less; with the last the pages and the promises go."""
        target.links -= 1
        if target.links:
            return
        if RECORD.on:
            RECORD.reads.add(("slots", target.number))
        for folio in list(target.cache.values()):
            self.drop_cached(target, folio)
        if target.promised:
            self.memory.pools[target.shift].reserved -= len(target.promised)
            target.promised.clear()
        del self.objects[target]

    def drop_cached(self, target: Object, folio: Folio) -> None:
        """Take one page out of the cache and drop the cache's reference."""
        target.remove(folio)
        target.uncharge()
        self.memory.put(folio)

    def lock_folio(self, folio: Folio) -> None:
        """Sleep until nobody has it locked, then lock it."""
        if self.sched.preemptive:
            self.sched.point("folio.lock")
        self.wait_folio(folio)
        if RECORD.on:
            RECORD.writes.add(("page", folio.number))
        folio.flags |= LOCKED

    def wait_folio(self, folio: Folio) -> None:
        """Sleep until nobody has it locked."""
        if RECORD.on:
            RECORD.reads.add(("page", folio.number))
        while folio.flags & LOCKED:
            task = self.sched.current
            if task is not None:
                self.folio_queues.setdefault(folio, deque()).append(task)
            if RECORD.on:
                RECORD.writes.add(("page", folio.number))
            self.sched.block(Wait("lock", lambda: f"the lock of {folio.name}"))
            if RECORD.on:
                RECORD.reads.add(("page", folio.number))

    def unlock_folio(self, folio: Folio) -> None:
        if RECORD.on:
            RECORD.writes.add(("page", folio.number))
        folio.flags &= ~LOCKED
        if self.folio_queues:
            for task in self.folio_queues.pop(folio, ()):
                self.sched.wake(task)

    def family(self) -> int:
        """A fresh number for a mapping's first private page."""
        self.next_family += 1
        return self.next_family


def _types(profile: Profile) -> list[MemoryOps]:
    return [
        ANONYMOUS,
        SHMEM,
        HUGETLB,
        GUEST_MEMFD if profile.guest_memfd_userfault else GUEST_MEMFD_RELEASED,
        ORDINARY,
        SYSV,
        SYSV_HUGETLB_RECOGNISED if profile.sysv_hugetlb else SYSV_HUGETLB,
        DROPPABLE_RECOGNISED if profile.droppable_registers else DROPPABLE,
        SPECIAL,
    ]
