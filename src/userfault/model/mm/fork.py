"""fork: the child's address space, copy-on-write, and registrations that follow; exit."""

from __future__ import annotations

from userfault.model.files import folio as folios
from userfault.model.files.folio import Cgroup
from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.userfaultfd_k import Forks
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD


def fork_space(parent: AddressSpace, cgroup: Cgroup) -> tuple[AddressSpace, Forks]:
    """A copy of the address space; who has to be told of it (`dup_complete`)."""
    child = AddressSpace(parent.spaces, cgroup)
    forks: Forks = {}
    parent.write()
    try:
        if RECORD.on:
            RECORD.reads.add(("maps", parent.number))
            RECORD.reads.add(("families", parent.number))
        for vma in parent.vmas.values():
            parent.start_write(vma)
        for vma in list(parent.vmas.values()):
            if not vma.flags & vmas.DONTFORK:
                _copy(parent, child, vma, forks)
    finally:
        parent.write_done()
    return child, forks


def _copy(parent: AddressSpace, child: AddressSpace, vma: Vma, forks: Forks) -> None:
    twin = vma.like(vma.start, vma.end, vma.offset)
    twin.mm = child
    twin.flags &= ~vmas.LOCKED
    if twin.promised is not None:
        twin.promised = set()  # what is promised stays the parent's
    wipe = vma.flags & vmas.WIPEONFORK
    parent.userfaultfd.dup(vma, twin, child, forks)
    child.insert(twin)
    if vma.family:
        twin.family = 0 if wipe else child.spaces.family()
        twin.inherited = not wipe
    if wipe:
        return
    if vma.family or twin.modes & (vmas.WP | vmas.RWP) or vma.guarded:
        _copy_entries(parent, child, vma, twin)


def _copy_entries(parent: AddressSpace, child: AddressSpace, vma: Vma, twin: Vma) -> None:
    """Private pages become shared and read-only on both sides; pinned ones are copied now."""
    lost = 0 if twin.modes & (vmas.WP | vmas.RWP) else pt.UFFD_WP | pt.UFFD_RWP
    shift = vma.shift
    child.table.inherit(parent.table, vma.start, vma.end, shift)
    if parent.thp:
        _copy_huge(parent, child, vma, twin, lost)
    for address in parent.table.addresses(vma.start, vma.end, shift):
        entry = parent.table.get(address, shift)
        assert entry is not None
        flags, folio = entry
        if folio is None:
            if lost and "fork-keeps-markers" not in child.config.bugs:
                flags &= ~pt.MARK_WP
            child.mark(twin, address, flags)
            continue
        stays = vma.ops.pool and not child.profile.fork_unprotects_huge
        kept = flags if stays else flags & ~lost
        if folio.flags & folios.ANON and folio.flags & folios.PINNED:
            copy = child.memory.allocate(folio.order, folios.ANON | folios.UPTODATE, child.cgroup)
            if copy is not None:
                copy.copy_from(folio)
                child.map_folio(twin, address, kept | pt.EXCLUSIVE, copy)
                continue
        if not vma.shared and flags & pt.EXCLUSIVE:
            parent.change(vma, address, entry, 0, pt.EXCLUSIVE)
            folio.own(False)
        if not folio.flags & folios.ZERO:
            folio.get()
        child.map_folio(twin, address, kept & ~pt.EXCLUSIVE, folio)


def _copy_huge(parent: AddressSpace, child: AddressSpace, vma: Vma, twin: Vma, lost: int) -> None:
    """Huge pages are shared whole; one that may be pinned is split, and copied in small pages."""
    for address in thp.within(parent, vma.start, vma.end):
        flags, folio = entry = parent.table.huge[address]
        assert folio is not None
        if folio.flags & folios.PINNED:
            thp.split(parent, address)
            continue
        if flags & pt.EXCLUSIVE:
            parent.change(vma, address, entry, 0, pt.EXCLUSIVE)
        if not folio.flags & folios.ZERO:
            folio.get()
        child.map_thp(twin, address, flags & ~(lost | pt.EXCLUSIVE), folio)
