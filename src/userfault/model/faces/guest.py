"""A virtual machine's view of its memory: stage-2 faults, and KVM's own access.

Three ways lead to the memory of a guest: the host's mapping (an ordinary touch of a process),
KVM's own access through the host address of a slot (may raise messages; a USER_MODE_ONLY context
refuses it), and the guest's stage-2 fault, which raises none and sees neither poison nor
write protection.  A slot may ask for an exit to user space instead of a page that nobody has
filled (`exit_on_missing`): userfaultfd alone never sees the guest's first touch.
"""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno, Refused, Signalled
from userfault.model.files import boundary
from userfault.model.files.folio import Folio, Object
from userfault.model.files.inode import Inode
from userfault.model.mm import access
from userfault.model.mm.address_space import AddressSpace
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task


class MissingExit(Exception):  # noqa: N818  # an outcome
    """The guest stopped at a page that is not there: fill it and run on."""

    def __init__(self, guest_address: int) -> None:
        super().__init__(guest_address)
        self.guest_address = guest_address


def emulated(task: Task, mm: AddressSpace, host_address: int, length: int) -> bytes:
    """KVM loads by a slot's host address.  Raises Errno(EFAULT) where the host's touch fails."""
    parts: list[bytes] = []
    try:
        access.load(task, mm, host_address, length, parts, user=False)
    except Signalled:
        raise Errno(errno.EFAULT) from None
    return b"".join(parts)


class Guest:
    """One slot of guest memory, from guest address 0."""

    def __init__(
        self,
        mm: AddressSpace,
        target: Inode,
        host_address: int,
        *,
        exit_on_missing: bool = False,
    ) -> None:
        self.mm = mm
        self.object = target
        self.host_address = host_address
        self.exit_on_missing = exit_on_missing
        self.number = RECORD.number()
        self._files = mm.files
        # KVM holds no reference on these pages: it is told before one goes (`_invalidate`).
        self._mapped: dict[int, Folio] = {}
        self._files.guests.append(self._invalidate)

    def read(self, task: Task, address: int, length: int) -> bytes:
        """The guest loads within one page; MissingExit if the slot asks for that."""
        return self._page(task, address).read(address % PAGE, length)

    def write(self, task: Task, address: int, data: bytes) -> None:
        """The guest stores within one page."""
        self._page(task, address).write(address % PAGE, data)

    def emulate(self, task: Task, address: int, length: int) -> bytes:
        """KVM itself reads guest memory, for an instruction it emulates: EFAULT is an MMIO exit."""
        return emulated(task, self.mm, self.host_address + address, length)

    def convert(self, index: int, *, private: bool) -> None:
        """The guest makes a page private or shared again; the host's entries of it go."""
        folio = self.object.cached(index)
        if folio is not None:
            self._files.lock_folio(folio)
        self.object.changed()
        if private:
            self.object.private_indexes.add(index)
            for vma in list(self.object.mappings):
                at = vma.address_of(index)
                if vma.start <= at < vma.end:
                    vma.zap(at, at + PAGE, drop_markers=True)
        else:
            self.object.private_indexes.discard(index)
        if folio is not None:
            self._files.unlock_folio(folio)

    def _page(self, task: Task, address: int) -> Folio:
        index = address // PAGE
        if RECORD.on:
            RECORD.reads.add(("guest", self.number))
        found = self._mapped.get(index)
        if found is not None:
            return found
        hook = self.object.kind.guest_folio
        if hook is None:
            return self._through_host(task, address)
        if self.object.cached(index) is None and self.exit_on_missing:
            raise MissingExit(address & -PAGE)
        cached = self.object.cached(index)
        if cached is not None:
            self._files.wait_folio(cached)
        try:
            folio = boundary.guest_folio(
                self._files.sched, self.object.kind, self._files.where(self.object, index)
            )
        except Refused:
            raise Errno(errno.EFAULT) from None
        if RECORD.on:
            RECORD.writes.add(("guest", self.number))
        self._mapped[index] = folio
        self._files.unlock_folio(folio)
        self._files.memory.put(folio)
        return folio

    def _through_host(self, task: Task, address: int) -> Folio:
        """Memory that is no guest_memfd is found by the slot's host address."""
        host = self.host_address + address
        access.populate(task, self.mm, host & -PAGE, host + 1, write=True)
        entry, _ = access.entry_at(self.mm, host)
        assert entry is not None
        assert entry[1] is not None
        return entry[1]

    def _invalidate(self, target: Object, first: int, last: int) -> None:
        if target is self.object:
            if RECORD.on:
                RECORD.writes.add(("guest", self.number))
            for index in [at for at in self._mapped if first <= at < last]:
                del self._mapped[index]
