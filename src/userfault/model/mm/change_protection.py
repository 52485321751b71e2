"""The uffd-wp and RWP bits of a range, set and cleared (change_protection of mm/mprotect.c)."""

from __future__ import annotations

from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma


def set_wp(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Set or clear write protection of [start, end) of one mapping, markers included."""
    _set_wp_of_huge(mm, vma, start, end, protect=protect)
    table = mm.table
    if not protect:
        for address in table.addresses(start, end, vma.shift):
            entry = table.get(address, vma.shift)
            assert entry is not None
            flags, folio = entry
            if folio is None:
                # Poison and guards are passed over: the bit that PAGEMAP_SCAN gave them stays.
                if flags & pt.MARKS == pt.MARK_WP:
                    mm.mark(vma, address, flags & ~pt.MARK_WP)
            elif flags & pt.UFFD_WP:
                mm.change(vma, address, entry, 0, pt.UFFD_WP)
        return
    for address in _protected_pages(mm, vma, start, end):
        entry = table.get(address, vma.shift)
        if entry is None:
            table.set(address, vma.shift, pt.MARKER_WP)
        elif entry[1] is not None and entry[0] & (pt.UFFD_WP | pt.WP_OPEN) != pt.UFFD_WP:
            mm.change(vma, address, entry, pt.UFFD_WP, 0)


def _set_wp_of_huge(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Huge pages of the range: whole ones stay huge, parts of others are split off."""
    for address in thp.whole(mm, start, end):
        entry = mm.table.huge[address]
        if not protect:
            mm.change(vma, address, entry, 0, pt.UFFD_WP)
        elif entry[0] & (pt.UFFD_WP | pt.WP_OPEN) != pt.UFFD_WP:
            mm.change(vma, address, entry, pt.UFFD_WP, 0)


def _marks_empty(mm: AddressSpace, vma: Vma) -> bool:
    """Whether protecting leaves markers where nothing is: files always, else WP_UNPOPULATED."""
    return vma.ops.fault_folio is not None or mm.userfaultfd.wp_unpopulated(vma)


def _protected_pages(mm: AddressSpace, vma: Vma, start: int, end: int) -> list[int]:
    if _marks_empty(mm, vma):
        every = range(start, end, 1 << vma.shift)
        return [at for at in every if not mm.is_huge(at)]
    return list(mm.table.addresses(start, end, vma.shift))


def set_rwp(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Present pages become inaccessible, or accessible again; nothing is left where none is."""
    add, clear = (pt.UFFD_RWP, 0) if protect else (0, pt.UFFD_RWP)
    pages = [*thp.whole(mm, start, end), *mm.table.addresses(start, end, vma.shift)]
    for address in pages:
        entry = mm.entry(vma, address)
        assert entry is not None
        if entry[1] is not None and bool(entry[0] & pt.UFFD_RWP) is not protect:
            mm.change(vma, address, entry, add, clear)


def clear_protection(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Remove every uffd bit and wp marker of the range."""
    if not vma.modes & (vmas.WP | vmas.RWP):
        return
    bits = pt.UFFD_WP | pt.UFFD_RWP
    for address in thp.whole(mm, start, end):
        mm.change(vma, address, mm.table.huge[address], 0, bits)
    for address in mm.table.addresses(start, end, vma.shift):
        entry = mm.table.get(address, vma.shift)
        assert entry is not None
        flags, folio = entry
        if folio is None:
            if flags & pt.MARKS == pt.MARK_WP:  # of poison and guards it stays
                mm.mark(vma, address, 0)
        elif flags & bits:
            mm.change(vma, address, entry, 0, bits)
