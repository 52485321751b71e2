"""UFFDIO_REGISTER and UFFDIO_UNREGISTER: which mappings take which modes, and what they answer."""

from __future__ import annotations

import errno

from userfault.model.errors import Errno
from userfault.model.memtypes import boundary
from userfault.model.memtypes.ops import Facts
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.change_protection import clear_protection
from userfault.model.mm.lifetime import using
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd.context import Context, context_of
from userfault.uapi import userfaultfd as abi

PAGE_MASK = 4095


def check_range(mm: AddressSpace, start: int, length: int, *, aligned: bool = True) -> None:
    """EINVAL for a range that is not whole pages inside the address space."""
    if (
        start < mm.profile.lowest_address
        or (aligned and start & PAGE_MASK)
        or length & PAGE_MASK
        or not length
        or start >= mm.task_size
        or length > mm.task_size - start
    ):
        raise Errno(errno.EINVAL)


def register(task: Task, context: Context, start: int, length: int, modes: int) -> int:
    """UFFDIO_REGISTER: the ioctls of the range.  Raises Errno; nothing has changed then."""
    del task
    mm = context.mm
    profile = mm.profile
    if not modes or modes & ~profile.modes:
        raise Errno(errno.EINVAL)
    if modes & vmas.RWP and (not context.features & abi.UFFD_FEATURE_RWP or modes & vmas.WP):
        raise Errno(errno.EINVAL)
    check_range(mm, start, length)
    with using(mm, errno.ENOMEM):
        mm.write()
        try:
            found = _range(mm, start, start + length)
            for vma in found:
                _may_register(context, vma, start + length, modes)
            for vma in mm.each(start, start + length):
                _set(mm, vma, start, start + length, context, modes)
        finally:
            mm.write_done()
    return _ioctls(mm, found, modes)


def _range(mm: AddressSpace, start: int, end: int) -> list[Vma]:
    found = mm.overlapping(start, end)
    if not found:
        above = mm.overlapping(end, mm.task_size)
        raise Errno(errno.EINVAL if above else mm.profile.above_all)
    first = found[0]
    # A range that begins in a hole is rounded by nobody: only a first mapping at `start` counts.
    if start & ((1 << first.shift) - 1):
        raise Errno(errno.EINVAL)
    return found


def supported(context: Context, vma: Vma, modes: int) -> bool:
    """Whether the type of this mapping takes these modes (vma_can_userfault)."""
    mm = context.mm
    asynchronous = context.has(abi.UFFD_FEATURE_WP_ASYNC)
    keeps = mm.profile.droppable_registers or "registers-droppable" in mm.config.bugs
    if vma.flags & vmas.DROPPABLE and not keeps:
        return False
    if vma.flags & vmas.SPECIAL and "registers-special" not in mm.config.bugs:
        return False
    if asynchronous and modes == vmas.WP:
        return True  # write tracking needs nothing of a type
    return boundary.can_userfault(mm.sched, vma.ops, Facts(vma.object, vma.shared, modes))


def _may_register(context: Context, vma: Vma, end: int, modes: int) -> None:
    profile = context.mm.profile
    if not supported(context, vma, modes):
        tracked = context.features & abi.UFFD_FEATURE_WP_ASYNC and modes == vmas.WP
        if vma.name == "[vvar]" and tracked:
            raise Errno(profile.vvar_wp_async)
        raise Errno(errno.EINVAL)
    if modes & vmas.RWP and not vma.prot:
        raise Errno(errno.EINVAL)
    if not vma.flags & vmas.MAY_WRITE and "registers-unwritable" not in context.mm.config.bugs:
        raise Errno(errno.EPERM)
    if end < vma.end and end & ((1 << vma.shift) - 1):
        raise Errno(errno.EINVAL)
    if vma.context is not None and vma.context is not context:
        raise Errno(errno.EBUSY)
    lost = vma.modes & ~modes & (vmas.WP | vmas.RWP)
    if profile.refuse_to_drop_wp and vma.context is context and lost:
        raise Errno(errno.EBUSY)


def _set(mm: AddressSpace, vma: Vma, start: int, end: int, context: Context, modes: int) -> None:
    # A subset of the modes that it has changes nothing (measured on 6.18).
    if vma.context is context and vma.modes & modes == modes:
        return
    cut = vma.start < start
    vma = mm.isolate(vma, start, end)
    mm.changed()
    vma.context = context
    vma.modes = modes
    if RECORD.on:
        RECORD.notes.append(("registered", context, vma))
    _join(mm, vma, cut=cut)  # mappings that do not change do not join either


def _join(mm: AddressSpace, part: Vma, *, cut: bool) -> None:
    """A part that has changed joins its neighbours.  `cut`: the mapping began before it."""
    if not cut or mm.profile.cut_part_joins:
        mm.merge(part.start, part.end)


def _ioctls(mm: AddressSpace, found: list[Vma], modes: int) -> int:
    ioctls = abi.UFFD_API_RANGE_IOCTLS
    if any(not vma.ops.zeropage for vma in found):
        ioctls = abi.UFFD_API_RANGE_IOCTLS_BASIC
    for vma in found:
        ioctls &= vma.ops.ioctls
    if not modes & vmas.WP:
        ioctls &= ~(1 << abi._UFFDIO_WRITEPROTECT)
    if not modes & vmas.MINOR:
        ioctls &= ~(1 << abi._UFFDIO_CONTINUE)
    if not modes & vmas.RWP:
        ioctls &= ~(1 << abi._UFFDIO_RWPROTECT)
    return ioctls & mm.profile.range_ioctls


def unregister(task: Task, context: Context, start: int, length: int) -> None:
    """UFFDIO_UNREGISTER.  Only waiters of MISSING ranges are woken."""
    del task
    mm = context.mm
    check_range(mm, start, length)
    end = start + length
    with using(mm, errno.ENOMEM):
        mm.write()
        try:
            found = _range(mm, start, end)
            for vma in found:
                foreign = vma.context is not None and vma.context is not context
                lenient = mm.profile.foreign_unregister or "foreign-unregister" in mm.config.bugs
                if foreign and not lenient:
                    raise Errno(errno.EINVAL)
                if not supported(context, vma, vma.modes):
                    raise Errno(errno.EINVAL)
            for vma in mm.each(start, end):
                if vma.context is not None:
                    if RECORD.on:
                        RECORD.notes.append(("unregistered", context, vma.context))
                    _clear(mm, vma, start, end)
        finally:
            mm.write_done()


def _clear(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    owner = context_of(vma)
    low, high = max(start, vma.start), min(end, vma.end)
    missing = vma.modes & vmas.MISSING
    cut = vma.start < start
    part = mm.isolate(vma, start, end)
    if missing and owner is not None:
        owner.wake(low, high - low)
    if RECORD.on and missing:
        RECORD.notes.append(("woken", owner, low, high - low))
    if "unregister-keeps-protection" not in mm.config.bugs:
        clear_protection(mm, part, low, high)
    mm.changed()
    part.reset_ctx()
    _join(mm, part, cut=cut)
