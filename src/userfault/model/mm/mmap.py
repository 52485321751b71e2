"""mmap, munmap, mprotect and mlock of an address space."""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno, Signalled
from userfault.model.files.inode import Inode
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import access, thp
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.userfaultfd_k import Unmaps
from userfault.model.mm.vma import Vma
from userfault.model.tasks.sched import Task
from userfault.uapi import mman


class Behind:
    """What is to be mapped: a type, its object, and what the descriptor allows.

    `refusal`: the errno that it ends with, once its place has been found.
    """

    __slots__ = ("may_write", "object", "offset", "ops", "refusal")

    def __init__(
        self,
        ops: MemoryOps,
        target: Inode | None,
        offset: int = 0,
        *,
        may_write: bool = True,
        refusal: int = 0,
    ) -> None:
        self.ops = ops
        self.object = target
        self.offset = offset
        self.may_write = may_write
        self.refusal = refusal


def is_shared(flags: int) -> bool:
    """Of mmap(2)."""
    return flags & mman.MAP_TYPE in (mman.MAP_SHARED, mman.MAP_SHARED_VALIDATE)


def mmap(
    task: Task,
    mm: AddressSpace,
    address: int,
    length: int,
    prot: int,
    flags: int,
    behind: Behind,
) -> int:
    """Map `behind`; the address.  Raises Errno."""
    if not length:
        raise Errno(errno.EINVAL)
    target = behind.object
    step = 1 << target.shift if target is not None else PAGE
    length = round_up(length, step)
    unmaps: Unmaps = []
    mm.write()
    try:
        address = _place(mm, address, length, flags, step)
        if behind.refusal:
            raise Errno(behind.refusal)
        # What the file's own mmap refuses, it refuses when the place has been cleared.
        _make_room(mm, address, address + length, unmaps)
        _ask_file(behind, shared=is_shared(flags))
        _insert(mm, address, length, prot, flags, behind)
    finally:
        mm.write_done()
        mm.userfaultfd.unmap_complete(task, unmaps)  # also of what was announced before it failed
    if flags & (mman.MAP_LOCKED | mman.MAP_POPULATE):
        fault_in(task, mm, address, address + length, tolerant=True)
    return address


def _place(mm: AddressSpace, address: int, length: int, flags: int, step: int) -> int:
    if length > mm.task_size:
        raise Errno(errno.ENOMEM)
    if not flags & (mman.MAP_FIXED | mman.MAP_FIXED_NOREPLACE):
        return _choose(mm, address, length, step)
    if address > mm.task_size - length:
        raise Errno(errno.ENOMEM)
    if address % step:
        raise Errno(errno.EINVAL)
    if flags & mman.MAP_FIXED_NOREPLACE and mm.overlapping(address, address + length):
        raise Errno(errno.EEXIST)
    return address


def _ask_file(behind: Behind, *, shared: bool) -> None:
    target = behind.object
    if target is None:
        return
    if target.kind.mappable is not None and not target.kind.mappable(target):
        raise Errno(errno.ENODEV)
    if behind.offset % (1 << target.shift) or not (shared or target.kind.can_private):
        raise Errno(errno.EINVAL)


def _choose(mm: AddressSpace, hint: int, length: int, step: int) -> int:
    hint &= -step
    end = hint + length
    if hint and end <= mm.task_size and not mm.overlapping(hint, end):
        return hint
    return mm.gap(length, step)


def _insert(
    mm: AddressSpace,
    address: int,
    length: int,
    prot: int,
    flags: int,
    behind: Behind,
) -> None:
    shared = is_shared(flags)
    bits = vmas.SHARED if shared else 0
    if behind.may_write or not shared:
        bits |= vmas.MAY_WRITE
    if flags & mman.MAP_TYPE == mman.MAP_DROPPABLE:
        bits |= vmas.DROPPABLE | vmas.WIPEONFORK | vmas.DONTDUMP
    if flags & mman.MAP_LOCKED:
        bits |= vmas.LOCKED
    if not shared and prot & mman.PROT_WRITE and _accountable(behind.ops, bits):
        bits |= vmas.ACCOUNT
    if flags & mman.MAP_NORESERVE and behind.ops.reserve is not None:
        bits |= vmas.NORESERVE
    offset = behind.offset if behind.object is not None else address
    vma = Vma(mm, address, address + length, prot, bits, behind.ops, behind.object, offset)
    reserve = behind.ops.reserve
    if reserve is not None and not flags & mman.MAP_NORESERVE:
        own: set[int] | None = None if shared else set()
        pages = length >> vma.shift
        if not reserve(mm.memory, behind.object, own, offset >> vma.shift, pages):
            raise Errno(errno.ENOMEM)
        vma.promised = own
    target = behind.object
    if behind.ops.mmap_grows and target is not None and prot & mman.PROT_WRITE:
        target.changed()
        target.size = max(target.size, offset + length)
    mm.insert(vma)
    mm.merge(address, address + length)


def munmap(task: Task, mm: AddressSpace, address: int, length: int) -> None:
    """munmap(2).  The UNMAP events follow the change."""
    if address % PAGE or not length or address > mm.task_size:
        raise Errno(errno.EINVAL)
    length = round_up(length, PAGE)
    if length > mm.task_size - address:
        raise Errno(errno.EINVAL)
    unmaps: Unmaps = []
    mm.write()
    try:
        unmap_locked(mm, address, address + length, unmaps)
    finally:
        mm.write_done()
        mm.userfaultfd.unmap_complete(task, unmaps)  # also of what was announced before it failed


def _make_room(mm: AddressSpace, start: int, end: int, unmaps: Unmaps) -> None:
    try:
        unmap_locked(mm, start, end, unmaps)
    except Errno as error:
        raise Errno(mm.profile.mmap_cannot_unmap or error.code) from None


def unmap_locked(mm: AddressSpace, start: int, end: int, unmaps: Unmaps) -> None:
    """Take everything in [start, end) away; `unmaps` gets who has to be told."""
    found = mm.overlapping(start, end)
    for vma in found:
        mm.start_write(vma)
    # Cut at the start, announce from there on, cut at the end: what was done stays where the end
    # would cut a huge page.
    if found and found[0].start < start:
        found[0] = mm.split(found[0], start)
    for vma in found:
        if vma.end > end:
            mm.split(vma, end)
        mm.userfaultfd.unmap_prep(vma, start, end, unmaps)
    for vma in found:
        discard(mm, vma)


def discard(mm: AddressSpace, vma: Vma) -> None:
    """Remove a whole mapping with its pages and promises."""
    mm.zap(vma, vma.start, vma.end, drop_markers=True)
    if vma.promised is not None and vma.ops.unreserve is not None:
        pages = (vma.end - vma.start) >> vma.shift
        first = vma.offset >> vma.shift
        vma.ops.unreserve(mm.memory, vma.object, vma.promised, first, pages)
    mm.remove(vma)
    # Tables are shared with what is mapped beside it, as far as that reaches.
    below = mm.overlapping(0, vma.start)
    floor = below[-1].end if below else 0
    above = mm.overlapping(vma.end, mm.task_size)
    ceiling = above[0].start if above else mm.task_size
    mm.table.forget_tables(floor, ceiling)


def mprotect(mm: AddressSpace, address: int, length: int, prot: int) -> None:
    """mprotect(2): mappings before a hole are changed (ENOMEM)."""
    if address % PAGE or prot & ~(mman.PROT_READ | mman.PROT_WRITE | mman.PROT_EXEC):
        raise Errno(errno.EINVAL)
    if not length:
        return
    end = address + round_up(length, PAGE)
    if end <= address:
        raise Errno(errno.ENOMEM)
    mm.write()
    try:
        at = address
        for vma in mm.each(address, end):
            if vma.start > at:
                raise Errno(errno.ENOMEM)
            if prot & mman.PROT_WRITE and vma.shared and not vma.flags & vmas.MAY_WRITE:
                raise Errno(errno.EACCES)
            at = min(vma.end, end)
            if vma.prot != prot:
                part = mm.isolate(vma, address, end)
                copies = _copies_when_writable(part) and bool(prot & mman.PROT_WRITE)
                _set_prot(mm, part, prot)
                start, stop = part.start, part.end
                mm.merge(start, stop)
                if copies:
                    access.populate_held(mm, start, stop)
        if at < end:
            raise Errno(errno.ENOMEM)
    finally:
        mm.write_done()


def _copies_when_writable(vma: Vma) -> bool:
    """A private mapping that is locked gets pages of its own as soon as it may be written."""
    locked = bool(vma.flags & vmas.LOCKED)
    return locked and not vma.shared and not vma.prot & mman.PROT_WRITE


def _accountable(ops: MemoryOps, bits: int) -> bool:
    return not ops.pool and not bits & (vmas.DROPPABLE | vmas.NORESERVE)


def _set_prot(mm: AddressSpace, vma: Vma, prot: int) -> None:
    if not prot & mman.PROT_WRITE:
        if vma.object is None and not vma.family:  # nothing is charged (measured on 6.18)
            vma.flags &= ~vmas.ACCOUNT
    elif not vma.shared and not vma.prot & mman.PROT_WRITE and _accountable(vma.ops, vma.flags):
        vma.flags |= vmas.ACCOUNT
    mm.changed()
    vma.prot = prot
    pages = mm.table.addresses(vma.start, vma.end, vma.shift)
    for address in (*thp.within(mm, vma.start, vma.end), *pages):
        entry = mm.entry(vma, address)
        if entry is not None and entry[1] is not None:
            mm.change(vma, address, entry, 0, 0 if prot & mman.PROT_WRITE else pt.WP_OPEN)
            if "mprotect-lifts-protection" in mm.config.bugs and vma.shared:
                _make_writable(mm, vma, address, prot)


def _make_writable(mm: AddressSpace, vma: Vma, address: int, prot: int) -> None:
    """By what the mapping allows alone, as an old bug did."""
    entry = mm.entry(vma, address)
    if entry is not None and prot & mman.PROT_WRITE:
        mm.table.set(address, vma.shift, (entry[0] | pt.WRITE, entry[1]))


def mlock(task: Task, mm: AddressSpace, address: int, length: int, *, lock: bool) -> None:
    """mlock(2), munlock(2): locking faults the pages in."""
    end = round_up(address + length, PAGE)
    start = address & -PAGE
    if end < start:
        raise Errno(errno.EINVAL)
    if end == start:
        return
    mm.write()
    try:
        at = start
        for vma in mm.each(start, end):
            if vma.start > at:
                raise Errno(errno.ENOMEM)
            at = min(vma.end, end)
            # Of huge and special mappings mlock faults the pages in and notes nothing.
            noted = not vma.ops.pool and not vma.flags & (vmas.SPECIAL | vmas.DROPPABLE)
            if noted and bool(vma.flags & vmas.LOCKED) is not lock:
                part = mm.isolate(vma, start, end)
                part.flags ^= vmas.LOCKED
                mm.merge(part.start, part.end)
        if at < end:
            raise Errno(errno.ENOMEM)
    finally:
        mm.write_done()
    if lock:
        fault_in(task, mm, start, end)


def fault_in(task: Task, mm: AddressSpace, start: int, end: int, *, tolerant: bool = False) -> None:
    """What mlock makes resident: written where a write is private anyway.

    Raises Errno; `tolerant` goes on with the next mapping instead, as mmap and mremap do.
    """
    while start < end and (found := mm.overlapping(start, end)):
        # Looked up anew for every page: it may be another one after a message was served.
        vma = found[0]
        start = max(start, vma.start)
        write = bool(vma.prot & mman.PROT_WRITE) and not vma.shared
        try:
            if not vma.prot:
                raise Errno(errno.ENOMEM)
            start = access.populate_page(task, mm, start, write=write)
        except (Errno, Signalled) as failed:
            if mm.find(start) is None:
                continue
            if not tolerant:
                code = failed.code if isinstance(failed, Errno) else errno.EFAULT
                raise Errno(errno.ENOMEM if code == errno.EFAULT else code) from None
            start = vma.end
