"""UFFDIO_MOVE: anonymous pages change their address, one at a time (6.8)."""

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
from userfault.model.tasks.recorder import RECORD
from userfault.model.uffd.context import Context, context_of
from userfault.uapi.mman import PROT_WRITE


def move(
    context: Context, dst: int, src: int, length: int, *, allow_holes: bool
) -> tuple[int, int]:
    """Move the range: (bytes done, errno that ended it or 0)."""
    with context.space() as mm:
        return _move(mm, context, dst, src, length, allow_holes=allow_holes)


def _move(
    mm: AddressSpace, context: Context, dst: int, src: int, length: int, *, allow_holes: bool
) -> tuple[int, int]:
    done = 0
    target, source = _enter(mm, dst, src)
    context.map_changing.read_at_once()
    try:
        if context.is_changing:
            return 0, errno.EAGAIN
        target, source = _checked(context, target, source, dst, src, length)
        while done < length:
            if done and mm.sched.preemptive:
                mm.sched.point("fill.page")
            left = length - done
            done += _move_one(mm, target, source, dst + done, src + done, left, allow_holes)
    except Errno as stop:
        return done, stop.code
    finally:
        context.map_changing.read_done()
        for vma in {target, source} - {None}:
            assert vma is not None
            mm.leave(vma)
    return done, 0


def _enter(mm: AddressSpace, dst: int, src: int) -> tuple[Vma | None, Vma | None]:
    """Both mappings, locked; where one is just being changed, wait with none (uffd_move_lock)."""
    target = mm.enter(dst)
    source = mm.find(src)
    if source is None or source is target or source.lock.try_read():
        return target, source
    if target is not None:
        mm.leave(target)
    mm.lock.read()
    target, source = mm.find(dst), mm.find(src)
    for vma in {target, source} - {None}:
        assert vma is not None
        vma.lock.read_at_once()
    mm.lock.read_done()
    return target, source


def _checked(
    context: Context, target: Vma | None, source: Vma | None, dst: int, src: int, length: int
) -> tuple[Vma, Vma]:
    mm = context.mm
    if target is not None and not target.shared:
        mm.prepare_private(target)  # before anything is checked, as a fill does
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


def _move_one(
    mm: AddressSpace,
    target: Vma,
    source: Vma,
    dst: int,
    src: int,
    left: int,
    allow_holes: bool,
) -> int:
    """Move what is at `src`, a whole huge page or a small one; the bytes moved.

    The order of the errors was measured on 6.18: the huge page is looked at first, and a source
    without a page table is a hole before the destination is looked at.
    """
    if not allow_holes and not mm.table.has_table(src, pt.PMD_SHIFT):
        raise Errno(errno.ENOENT)
    if mm.is_huge(dst):
        raise Errno(errno.EEXIST)
    huge = src & pt.PMD_MASK
    is_part = mm.is_huge(huge)
    if is_part:
        flags, folio = mm.table.huge[huge]
        assert folio is not None
        if not folio.flags & folios.ZERO and not flags & pt.EXCLUSIVE:
            raise Errno(errno.EBUSY)
        if src == huge and _fits_whole(mm, dst, left):
            _move_huge(mm, target, dst, src)
            return pt.PMD_SIZE
        thp.split(mm, huge)
    elif not allow_holes and not mm.table.has_table(src, source.shift):
        raise Errno(errno.ENOENT)
    mm.table.build(src, source.shift)
    mm.table.build(dst, target.shift)
    if mm.entry(target, dst) is not None:
        raise Errno(errno.EEXIST)
    if RECORD.on:
        context = context_of(target)
        assert context is not None
        RECORD.reads.add(("changing", context.number))  # which the rules look at
        RECORD.notes.append(("fill", context, target, dst, None, None, True))
    _move_page(mm, target, source, dst, src, allow_holes)
    return PAGE


def _fits_whole(mm: AddressSpace, dst: int, left: int) -> bool:
    """A huge page goes as one to an aligned place without a page table."""
    aligned = not dst & ~pt.PMD_MASK and left >= pt.PMD_SIZE
    return aligned and not mm.table.has_table(dst, 12)


def _move_huge(mm: AddressSpace, target: Vma, dst: int, src: int) -> None:
    _, folio = mm.take_thp(src)
    assert folio is not None
    flags = pt.UFFD_RWP if target.modes & vmas.RWP else 0
    if not folio.flags & folios.ZERO:
        folio.mapcount -= 1
        flags |= pt.EXCLUSIVE | pt.DIRTY
    mm.map_thp(target, dst, flags, folio)


def _move_page(
    mm: AddressSpace, target: Vma, source: Vma, dst: int, src: int, allow_holes: bool
) -> None:
    entry = mm.table.get(src)
    if entry is None:
        if allow_holes:
            return
        raise Errno(errno.ENOENT)
    flags, folio = entry
    if folio is None:
        raise Errno(errno.EFAULT)
    rwp = pt.UFFD_RWP if target.modes & vmas.RWP else 0
    if folio.flags & folios.ZERO:
        mm.table.set(src, 12, None)
        mm.map_folio(target, dst, rwp, folio)
        return
    large = folio.in_large
    exclusive = large.exclusive if large is not None else flags & pt.EXCLUSIVE
    if not exclusive or folio.flags & folios.PINNED:
        raise Errno(errno.EBUSY)
    if large is not None:
        thp.split_large(mm, source, src, large)
        _move_page(mm, target, source, dst, src, allow_holes)
        return
    folio.get()
    mm.unmap(source, src)
    mm.map_folio(target, dst, pt.EXCLUSIVE | pt.DIRTY | rwp, folio)
