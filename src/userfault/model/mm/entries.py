"""The entries of an address space, and the folios that they count.

Only `mm` and `uffd` change entries: by the steps here, or in the table itself where nothing that is
counted comes or goes.  `allowed` says what the processor may do with a present entry; it is a
function of the mapping and the entry, so that it can be computed again (`invariants`).
"""

from __future__ import annotations

from userfault.model.files import folio as folios
from userfault.model.files.folio import Cgroup, Folio
from userfault.model.files.memory import Memory
from userfault.model.mm import pgtable as pt
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.uapi.mman import PROT_WRITE

_KEEP = ~(pt.READ | pt.WRITE)


def allowed(vma: Vma, flags: int) -> int:
    """`flags` of a present entry, with READ and WRITE as this mapping gives them."""
    flags &= _KEEP
    if flags & pt.UFFD_RWP or not vma.prot:
        return flags
    flags |= pt.READ
    protected = flags & pt.SOFT_CLEAN or flags & (pt.UFFD_WP | pt.WP_OPEN) == pt.UFFD_WP
    if vma.prot & PROT_WRITE and not protected and (vma.shared or flags & pt.EXCLUSIVE):
        flags |= pt.WRITE
    return flags


class Entries:
    """What is at each page of an address space, small and huge; mappings are not looked up here."""

    def __init__(self, memory: Memory, cgroup: Cgroup) -> None:
        self.memory = memory
        self.cgroup = cgroup  # on whose account new pages are
        self.table = pt.PageTable()
        self.number = self.table.number
        self.thp: set[int] = set()  # addresses of anonymous huge entries
        self.flushing: set[int] = set()  # pages whose entry is being replaced by that of a copy

    def entry(self, vma: Vma, address: int) -> pt.Entry | None:
        """What is at a page of `vma`; a page inside a THP reads as the huge entry."""
        found = self.table.get(address, vma.shift)
        if RECORD.on and found is None:
            RECORD.reads.add(("huge", self.number, address & pt.PMD_MASK))
        if found is None and self.thp:
            return self.table.huge.get(address & pt.PMD_MASK)
        return found

    def is_huge(self, address: int) -> bool:
        """Whether a transparent huge page is mapped there."""
        if RECORD.on:
            RECORD.reads.add(("huge", self.number, address & pt.PMD_MASK))
        return address & pt.PMD_MASK in self.thp

    def set_flushing(self, vma: Vma, page: int, on: bool) -> None:
        """The entry of this page is being replaced by that of a copy, or no more."""
        if RECORD.on:
            RECORD.writes.add(("entry", self.number, page & -(1 << vma.shift)))
        if on:
            self.flushing.add(page)
        else:
            self.flushing.discard(page)

    def map_folio(self, vma: Vma, address: int, flags: int, folio: Folio) -> None:
        """Install a page where there is none; the caller's reference becomes the entry's."""
        if not folio.flags & folios.ZERO:
            if RECORD.on:
                RECORD.adds.add(("refs", folio.number))
            folio.mapcount += 1
        self.table.set(address, vma.shift, (allowed(vma, flags | pt.PRESENT), folio))

    def map_thp(self, vma: Vma, address: int, flags: int, folio: Folio) -> None:
        """Install a transparent huge page; the caller's reference becomes the entry's."""
        if not folio.flags & folios.ZERO:
            if RECORD.on:
                RECORD.adds.add(("refs", folio.number))
            folio.mapcount += 1
        self.put_thp(address, (allowed(vma, flags | pt.PRESENT), folio))

    def put_thp(self, address: int, entry: pt.Entry) -> None:
        """Put a huge entry where there is none."""
        self.table.set(address, pt.PMD_SHIFT, entry)
        self.thp.add(address)

    def take_thp(self, address: int) -> pt.Entry:
        """Take the huge entry at `address` out of the table, to be put elsewhere or dropped."""
        self.thp.discard(address)
        entry = self.table.huge[address]
        self.table.set(address, pt.PMD_SHIFT, None)
        return entry

    def mark(self, vma: Vma, address: int, marks: int) -> None:
        """Leave a marker where there is no page (0: nothing)."""
        self.table.set(address, vma.shift, (marks, None) if marks else None)

    def unmap(self, vma: Vma, address: int, leave: pt.Entry | None = None) -> None:
        """Remove what is there and drop the entry's reference."""
        entry = self.table.get(address, vma.shift)
        self.table.set(address, vma.shift, leave)
        if entry is not None:
            self.forget(entry)

    def forget(self, entry: pt.Entry) -> None:
        """Drop the reference of an entry that is in no table any more."""
        flags, folio = entry
        if folio is None or folio.flags & folios.ZERO:
            return
        if flags & pt.DIRTY:
            folio.flags |= folios.DIRTY
        folio.mapcount -= 1
        self.memory.put(folio)

    def change(self, vma: Vma, address: int, entry: pt.Entry, add: int, clear: int) -> None:
        """Other flags for a present entry, of a small or a whole huge page.

        What the processor may do follows from them.
        """
        if (add | clear) & pt.UFFD_WP:
            clear |= pt.WP_OPEN
        flags = allowed(vma, entry[0] & ~clear | add)
        shift = vma.shift
        if self.thp and address & pt.PMD_MASK in self.thp:
            address, shift = address & pt.PMD_MASK, pt.PMD_SHIFT
        self.table.set(address, shift, (flags, entry[1]))
