"""UFFDIO_MOVE: anonymous pages change their address, one at a time (6.8)."""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model import folio as folios
from userfault.model import pgtable as pt
from userfault.model import vma as vmas
from userfault.model.errors import Errno
from userfault.model.mm import AddressSpace, allowed
from userfault.model.userfaultfd import Context
from userfault.model.vma import Vma
from userfault.uapi.mman import PROT_WRITE


def move(
    context: Context, dst: int, src: int, length: int, *, allow_holes: bool
) -> tuple[int, int]:
    """Move the range: (bytes done, errno that ended it or 0)."""
    mm = context.mm
    if not mm.alive:
        raise Errno(errno.ESRCH)
    done = 0
    mm.lock.read()
    try:
        if context.changing:
            return 0, errno.EAGAIN
        target, source = _mappings(context, dst, src, length)
        mm.prepare_private(target)
        while done < length:
            if mm.sched.preemptive:
                mm.sched.point("fill.page")
            if _move_huge(mm, target, dst + done, src + done, length - done):
                done += pt.PMD_SIZE
                continue
            _move_page(mm, target, source, dst + done, src + done, allow_holes)
            done += PAGE
    except Errno as stop:
        return done, stop.code
    finally:
        mm.lock.read_done()
    return done, 0


def _mappings(context: Context, dst: int, src: int, length: int) -> tuple[Vma, Vma]:
    mm = context.mm
    target = mm.find(dst)
    source = mm.find(src)
    if target is None or source is None:
        raise Errno(errno.ENOENT)
    differ = (
        target.prot != source.prot
        or (target.flags ^ source.flags) & vmas.LOCKED
        or not target.prot & PROT_WRITE
    )
    if (
        target.shared
        or source.shared
        or dst + length > target.end
        or src + length > source.end
        or differ
        or not target.ops.movable
        or not source.ops.movable
        or target.context is not context
    ):
        raise Errno(errno.EINVAL)
    return target, source


def _move_huge(mm: AddressSpace, target: Vma, dst: int, src: int, left: int) -> bool:
    """A whole transparent huge page to an empty place of its alignment moves as one."""
    if (dst | src) & ~pt.PMD_MASK or left < pt.PMD_SIZE or src not in mm.thp:
        return False
    if dst in mm.thp or dst >> pt.PMD_SHIFT in mm.table.tables:
        return False
    mm.thp.discard(src)
    _, folio = mm.table.huge.pop(src)
    assert folio is not None
    folio.mapcount -= 1
    mm.map_thp(target, dst, folio)
    if target.modes & vmas.RWP:
        mm.table.huge[dst] = (allowed(target, mm.table.huge[dst][0] | pt.UFFD_RWP), folio)
    return True


def _move_page(
    mm: AddressSpace, target: Vma, source: Vma, dst: int, src: int, allow_holes: bool
) -> None:
    if mm.entry(target, dst) is not None:
        raise Errno(errno.EEXIST)
    entry = mm.entry(source, src)
    if entry is None:
        if allow_holes:
            return
        raise Errno(errno.ENOENT)
    mm.split_range(src, src + PAGE)
    entry = mm.table.get(src)
    assert entry is not None
    flags, folio = entry
    if folio is None:
        raise Errno(errno.EFAULT)
    rwp = pt.UFFD_RWP if target.modes & vmas.RWP else 0
    if folio is mm.memory.zero:
        mm.table.set(src, 12, None)
        mm.map_folio(target, dst, rwp, folio)
        return
    if not flags & pt.EXCLUSIVE or folio.flags & folios.PINNED:
        raise Errno(errno.EBUSY)
    folio.refs += 1
    mm.unmap(source, src)
    mm.map_folio(target, dst, pt.EXCLUSIVE | pt.DIRTY | rwp, folio)
