"""Soft-dirty bits, of kernels built with CONFIG_MEM_SOFT_DIRTY (`Config.soft_dirty`).

A mapping is soft dirty as a whole when it is made.  Clearing takes that away and makes its pages
read-only, so that the next store faults and leaves the bit; userfaultfd hears nothing of it.
Pages that it fills count as written, except for the zero page; so do pages that mremap(2) moved.
hugetlb has the bit of the mapping alone.  Source: the kernel's admin guide on soft-dirty PTEs.
"""

from __future__ import annotations

from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma


def clear(mm: AddressSpace) -> None:
    """What writing 4 to /proc/PID/clear_refs does; without the configuration, nothing."""
    if not mm.config.soft_dirty:
        return
    mm.write()
    try:
        for vma in list(mm.vmas.values()):
            mm.start_write(vma)
            vma.soft_dirty = False
            if vma.shift == 12:
                _clear_pages(mm, vma)
    finally:
        mm.write_done()


def _clear_pages(mm: AddressSpace, vma: Vma) -> None:
    pages = mm.table.addresses(vma.start, vma.end, vma.shift)
    for address in (*thp.within(mm, vma.start, vma.end), *pages):
        entry = mm.entry(vma, address)
        if entry is not None and entry[1] is not None:
            mm.change(vma, address, entry, pt.SOFT_CLEAN, pt.SOFT_DIRTY)


def written(flags: int) -> bool:
    """Whether a present entry is soft dirty by itself."""
    return bool(flags & pt.SOFT_DIRTY or (flags & pt.DIRTY and not flags & pt.SOFT_CLEAN))


def told(mm: AddressSpace, vma: Vma, address: int) -> bool:
    """Whether pagemap has the bit: for its mapping, holes included, or for its own page."""
    if not mm.config.soft_dirty:
        return False
    if vma.soft_dirty or vma.shift != 12:
        return vma.soft_dirty
    entry = mm.entry(vma, address)
    return entry is not None and entry[1] is not None and written(entry[0])


def moved_bit(mm: AddressSpace, shift: int) -> int:
    """What mremap(2) adds to the entries that it moves."""
    return pt.SOFT_DIRTY if mm.config.soft_dirty and shift == 12 else 0
