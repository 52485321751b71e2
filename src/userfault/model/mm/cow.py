"""Private pages: where they come from, and that who writes a shared one gets a copy."""

from __future__ import annotations

import signal

from userfault.model.errors import BUS_ADRERR, Refused, Signalled
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.ops import Where
from userfault.model.memtypes import boundary
from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma


def where(mm: AddressSpace, vma: Vma, page: int, *, shared: bool) -> Where:
    """For which page a type is asked for a folio."""
    return Where(
        mm.memory,
        vma.object,
        vma.index(page),
        shared,
        vma.shift,
        mm.cgroup,
        vma.promised,
    )


def private_page(mm: AddressSpace, vma: Vma, page: int, address: int) -> Folio:
    """A new private page with stale content."""
    ops = vma.ops.for_private
    try:
        folio = boundary.private_folio(mm.sched, ops, where(mm, vma, page, shared=False))
    except Refused:
        folio = None
    if folio is None:
        number = signal.SIGBUS if ops.pool else signal.SIGKILL
        raise Signalled(number, BUS_ADRERR if ops.pool else 0, address)
    folio.flags |= folios.UPTODATE
    return folio


def unshare(mm: AddressSpace, address: int) -> None:
    """Before a page is pinned for reading: a private page shared by fork becomes this space's."""
    vma = mm.find(address)
    if vma is None or vma.shared:
        return
    page = address & -(1 << vma.shift)
    entry = mm.entry(vma, page)
    if entry is None or entry[1] is None or entry[0] & pt.EXCLUSIVE:
        return
    if not entry[1].flags & folios.ANON:
        return
    if page & pt.PMD_MASK in mm.thp:
        if entry[1].is_alone and not entry[1].pieces:
            return
        thp.split(mm, page & pt.PMD_MASK)
        entry = mm.table.get(page, vma.shift)
        assert entry is not None
    folio = entry[1]
    assert folio is not None
    kept = entry[0] & (pt.UFFD_WP | pt.UFFD_RWP | pt.SOFT_CLEAN)
    break_cow(mm, vma, page, address, folio)
    made = mm.table.get(page, vma.shift)
    if kept and made is not None:
        mm.change(vma, page, made, kept, 0)


def break_cow(mm: AddressSpace, vma: Vma, page: int, address: int, folio: Folio) -> None:
    """A write to a page that this mapping does not own: keep it if it is the last user's."""
    mm.prepare_private(vma)
    if page & pt.PMD_MASK in mm.thp:
        _break_huge(mm, vma, page & pt.PMD_MASK, folio)
        return
    if folio.flags & folios.ANON and folio.is_alone and _may_keep(mm, page, folio):
        entry = mm.table.get(page, vma.shift)
        assert entry is not None
        folio.own(True)
        mm.change(vma, page, entry, pt.EXCLUSIVE | pt.DIRTY, 0)
        return
    if mm.sched.preemptive and not vma.ops.pool:
        entry = mm.table.get(page, vma.shift)
        mm.set_flushing(vma, page, True)
        mm.sched.point("cow.flush")
        mm.set_flushing(vma, page, False)
        if mm.table.get(page, vma.shift) is not entry:
            return
    copy = private_page(mm, vma, page, address)
    copy.copy_from(folio)
    mm.unmap(vma, page)
    mm.map_folio(vma, page, pt.EXCLUSIVE | pt.DIRTY, copy)


def _may_keep(mm: AddressSpace, page: int, folio: Folio) -> bool:
    """Whether the last user of a page may keep it: not while it is part of one that is shared."""
    large = folio.in_large
    if folio.whole is not None or large is None:
        return folio.whole is None
    return mm.profile.keeps_parts and not thp.is_shared(mm, page, large)


def _break_huge(mm: AddressSpace, vma: Vma, start: int, folio: Folio) -> None:
    """The same of a huge page: kept by its last user, replaced if it is the zero page, else split.

    After a split the access is tried again, and one small page is copied.
    """
    flags, _ = mm.table.huge[start]
    if folio.flags & folios.ZERO:
        new = thp.of_zeroes(mm) if mm.profile.zero_page_becomes_huge else None
        if new is not None:
            mm.take_thp(start)
            mm.map_thp(vma, start, pt.EXCLUSIVE | pt.DIRTY, new)
            return
    elif folio.is_alone and not folio.pieces:
        mm.change(vma, start, (flags, folio), pt.EXCLUSIVE | pt.DIRTY, 0)
        return
    thp.split(mm, start)
