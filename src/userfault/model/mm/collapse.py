"""MADV_COLLAPSE of anonymous memory: a huge page in the place of small ones, as far as it may be.

The order in which pages are looked at decides what is told of them.  A mapping that is registered
must have every page: a huge page would fill the holes that a userfault is waiting for.
"""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.files import folio as folios
from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.tasks.sched import Task


def collapse(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    """Of one mapping, the lock held for writing.

    Raises Errno: with the reason of the last huge page that could not be.
    """
    del task, advice
    last = (vma.end - pt.PMD_SIZE) & pt.PMD_MASK
    anonymous = vma.object is None and vma.ops.movable
    if (
        not anonymous
        or not vma.family
        or vma.flags & (vmas.NOHUGEPAGE | vmas.SPECIAL)
        or not thp.suitable(vma, last)
    ):
        raise Errno(errno.EINVAL)
    first, behind = (start + ~pt.PMD_MASK) & pt.PMD_MASK, end & pt.PMD_MASK
    code = mm.profile.collapse_of_nothing if first > behind else 0
    mm.start_write(vma)
    for address in range(first, behind, pt.PMD_SIZE):
        code = _collapse_one(mm, vma, address) or code
    if code:
        raise Errno(code)
    return end


def _collapse_one(mm: AddressSpace, vma: Vma, address: int) -> int:
    """Why not, or 0; the next one is tried all the same, but where it raises Errno."""
    if address in mm.thp:
        return 0
    if not mm.table.has_table(address, 12):
        return errno.EINVAL
    refusal = _refusal(mm, vma, address)
    if refusal:
        return refusal
    new = thp.of_zeroes(mm)
    if new is None:
        raise Errno(errno.ENOMEM)
    for piece in range(thp.PIECES):
        at = address + piece * PAGE
        entry = mm.table.get(at)
        if entry is not None:
            assert entry[1] is not None
            new.write(piece * PAGE, entry[1].read(0, PAGE))
            mm.unmap(vma, at)
    mm.table.built.discard((12, address >> pt.PMD_SHIFT))
    mm.map_thp(vma, address, pt.EXCLUSIVE | pt.DIRTY, new)
    return 0


def _refusal(mm: AddressSpace, vma: Vma, address: int) -> int:
    """What the first page says that stands against it (hpage_collapse_scan_pmd)."""
    profile = mm.profile
    writable = False
    marked = False
    for at in range(address, address + pt.PMD_SIZE, PAGE):
        entry = mm.table.get(at)
        if entry is None or (entry[1] is not None and entry[1].flags & folios.ZERO):
            if vma.modes:
                raise Errno(errno.EBUSY if profile.collapse_tells_of_holes else errno.EINVAL)
            continue
        flags, folio = entry
        if flags & (pt.UFFD_WP | pt.UFFD_RWP | pt.MARK_WP):
            return errno.EINVAL
        if folio is None:
            marked = True  # found out when it would be swapped in
            continue
        if folio.flags & folios.PINNED:
            return errno.EAGAIN
        writable = writable or bool(flags & pt.WRITE)
    if profile.collapse_needs_writable and not writable:
        return errno.EINVAL
    if marked:
        raise Errno(errno.EINVAL)
    return 0
