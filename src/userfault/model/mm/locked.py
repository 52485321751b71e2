"""Who may look at the mappings of an address space, and who changes them.

Faults and fills hold their mapping only (`enter`, `leave`).  Who changes mappings has the mmap lock
for writing and keeps them out of each mapping that it changes (`write`, `start_write`,
`write_done`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from userfault.model.files.folio import Cgroup
from userfault.model.files.memory import Memory
from userfault.model.mm.entries import Entries
from userfault.model.mm.vma import Vma
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.sched import Sched


class Locked(Entries, ABC):
    """`lock` is the mmap lock."""

    def __init__(self, memory: Memory, cgroup: Cgroup, sched: Sched, *, vma_locks: bool) -> None:
        super().__init__(memory, cgroup)
        self.sched = sched
        self.lock = RWLock(sched, "mmap")
        self.vma_locks = vma_locks
        self.alive = True
        self.users = 1  # see lifetime.py
        self.owned = True  # its process has not ended
        self._written: list[RWLock] = []  # of mappings that the writer keeps others out of

    @abstractmethod
    def find(self, address: int) -> Vma | None:
        """The mapping that holds `address`."""

    def enter(self, address: int) -> Vma | None:
        """The mapping that holds `address`, locked so that nobody changes it (lock_vma_under_rcu).

        Where it is just being changed, the mmap lock is waited for.  Where there are no such locks
        (to 6.5) it is held instead.
        """
        if self.vma_locks:
            if self.sched.preemptive:
                self.sched.point("vma.read")
            vma = self.find(address)
            if vma is not None and vma.lock.try_read():
                return vma
        self.lock.read()
        vma = self.find(address)
        if vma is None or self.vma_locks:
            if vma is not None:
                vma.lock.read_at_once()
            self.lock.read_done()
        return vma

    def leave(self, vma: Vma) -> None:
        """Undo `enter`."""
        if self.vma_locks:
            vma.lock.read_done()
        else:
            self.lock.read_done()

    def write(self) -> None:
        """Mappings are going to change (mmap_write_lock)."""
        self.lock.write()

    def start_write(self, vma: Vma) -> None:
        """This mapping is: wait for who is in it, and let nobody in (vma_start_write)."""
        lock = vma.lock
        if self.vma_locks and self.lock.writing and not lock.writing:
            lock.write_at_once()
            self._written.append(lock)

    def write_done(self) -> None:
        """Mappings have changed."""
        for lock in self._written:
            lock.write_done()
        self._written.clear()
        self.lock.write_done()
