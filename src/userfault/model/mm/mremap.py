"""mremap(2): move, grow, shrink, and what becomes of the registration."""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno
from userfault.model.mm import pgtable as pt
from userfault.model.mm import softdirty, thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.mmap import fault_in, unmap_locked
from userfault.model.mm.userfaultfd_k import Moves, Unmaps
from userfault.model.mm.vma import Vma
from userfault.model.tasks.sched import Task
from userfault.uapi.mman import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE


class _Call:
    """One mremap and who has to be told of it: first of what made room, then of the move."""

    def __init__(
        self, mm: AddressSpace, old: int, old_length: int, new_length: int, flags: int, new: int
    ) -> None:
        self.mm = mm
        self.old = old
        self.old_length = self.asked_length = old_length
        self.new_length = new_length
        self.flags = flags
        self.new = new
        self.early: Unmaps = []
        self.moved: Moves = []
        self.unmaps: Unmaps = []


def mremap(
    task: Task,
    mm: AddressSpace,
    old: int,
    old_length: int,
    new_length: int,
    flags: int,
    new: int,
) -> int:
    """The new address.  Events: UNMAP of the target, REMAP, UNMAP of the old range."""
    call = _Call(mm, old, round_up(old_length, PAGE), round_up(new_length, PAGE), flags, new)
    exact = flags & MREMAP_DONTUNMAP and not mm.profile.mremap_many
    if exact and old_length != new_length:  # before they were rounded up, to 6.12
        raise Errno(errno.EINVAL)
    _check(call)
    try:
        mm.write()
        try:
            result = _remap(call)
        finally:
            mm.write_done()
        _populate(task, call, result)
    finally:
        mm.userfaultfd.unmap_complete(task, call.early)
        mm.userfaultfd.mremap_complete(task, call.moved)
        mm.userfaultfd.unmap_complete(task, call.unmaps)
    return result


def _populate(task: Task, call: _Call, start: int) -> None:
    """What a locked mapping has grown by is faulted in, before anybody is told of the move."""
    vma = call.mm.find(start)
    if call.new_length > call.old_length and vma is not None and vma.flags & vmas.LOCKED:
        end = start + call.new_length
        fault_in(task, call.mm, start + call.old_length, end, tolerant=True)


def _check(call: _Call) -> None:
    flags = call.flags
    known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    to = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if (
        flags & ~known
        or call.old % PAGE
        or not call.new_length
        or (to and not flags & MREMAP_MAYMOVE)
        or (flags & MREMAP_DONTUNMAP and call.old_length != call.new_length)
    ):
        raise Errno(errno.EINVAL)
    if call.mm.profile.mremap_many:
        _check_new(call)


def _check_new(call: _Call) -> None:
    """Before anything is looked up since 6.17; after the mapping before (measured on 6.12)."""
    to = call.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if (to or call.mm.profile.mremap_many) and call.new_length > call.mm.task_size:
        raise Errno(errno.EINVAL)
    if to and (
        call.new % PAGE
        or call.new > call.mm.task_size - call.new_length
        or (call.old + call.old_length > call.new and call.new + call.new_length > call.old)
    ):
        raise Errno(errno.EINVAL)


def _remap(call: _Call) -> int:
    mm = call.mm
    vma = mm.find(call.old)
    if vma is None:
        raise Errno(errno.EFAULT)
    many = mm.profile.mremap_many
    if not call.old_length and (many or not vma.ops.pool):
        return _duplicate(call, vma)
    if _several(call, vma) and vma.context is not None:
        raise Errno(errno.EFAULT)
    size = 1 << vma.shift
    if vma.shift != 12:
        call.old_length = call.asked_length = round_up(call.old_length, size)
        call.new_length = round_up(call.new_length, size)
        bad = call.old % size or call.new % size
        stays = call.flags & MREMAP_DONTUNMAP and many
        if bad or call.new_length > call.old_length or stays:
            raise Errno(errno.EINVAL)
    if not many:
        _check_new(call)
    if call.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return _remap_to(call, vma)
    if call.new_length < call.old_length:
        end = call.old + call.old_length
        unmap_locked(mm, call.old + call.new_length, end, call.unmaps)
    if call.new_length <= call.old_length:  # nothing to do is not checked further
        return call.old
    _check_old(call, vma)
    if _grow(call, vma):
        return call.old
    if not call.flags & MREMAP_MAYMOVE:
        raise Errno(errno.ENOMEM)
    call.new = mm.gap(call.new_length, size)
    _move(call, vma, call.old, call.old_length, call.new, call.new_length)
    return call.new


def _duplicate(call: _Call, vma: Vma) -> int:
    """An old length of 0: a second mapping of the same shared memory; the old one stays."""
    mm = call.mm
    if mm.profile.mremap_many:  # before it made room first
        _check_duplicate(call, vma)
    else:
        _check_new(call)
    if call.flags & MREMAP_FIXED:
        unmap_locked(mm, call.new, call.new + call.new_length, call.early)
        found = mm.find(call.old)
        if found is None:
            raise Errno(errno.EFAULT)
        vma = found
    _check_duplicate(call, vma)
    if not call.flags & MREMAP_FIXED:
        call.new = mm.gap(call.new_length, PAGE)
    _move(call, vma, call.old, 0, call.new, call.new_length)
    return call.new


def _check_duplicate(call: _Call, vma: Vma) -> None:
    if not vma.shared or vma.ops.pool:
        raise Errno(errno.EINVAL)
    if not call.flags & MREMAP_MAYMOVE:
        raise Errno(errno.ENOMEM)


def _check_old(call: _Call, vma: Vma) -> None:
    if vma.ops.pool and call.flags & MREMAP_DONTUNMAP:  # to 6.12: after it made room
        raise Errno(errno.EINVAL)
    if call.old_length > vma.end - call.old or not call.old_length:
        raise Errno(errno.EFAULT if call.old_length else errno.EINVAL)


def _grow(call: _Call, vma: Vma) -> bool:
    """In place, if it ends the mapping and the space behind is free."""
    mm = call.mm
    end = call.old + call.new_length
    mm.start_write(vma)
    if call.old + call.old_length != vma.end or end > mm.task_size:
        return False
    if mm.overlapping(vma.end, end):
        return False
    call.mm.changed()
    vma.end = end
    mm.merge(vma.start, end)
    return True


def _several(call: _Call, vma: Vma) -> bool:
    """Whether mappings beyond the first one are to move along (6.17)."""
    return (
        call.old + call.old_length > vma.end
        and call.mm.profile.mremap_many
        and call.new_length == call.old_length
        and bool(call.flags & MREMAP_FIXED)
    )


def _remap_to(call: _Call, vma: Vma) -> int:
    mm = call.mm
    old_end = call.old + call.old_length
    if _several(call, vma):
        return _remap_many(call)
    # Before anything is unmapped, for what will be left (6.17, measured on 6.18).
    too_long = min(call.old_length, call.new_length) > vma.end - call.old
    if too_long and mm.profile.mremap_many:
        raise Errno(errno.EFAULT)
    if call.flags & MREMAP_FIXED:
        unmap_locked(mm, call.new, call.new + call.new_length, call.early)
    if call.new_length < call.old_length:
        unmap_locked(mm, call.old + call.new_length, old_end, call.unmaps)
        call.old_length = call.new_length
    found = mm.find(call.old)
    if found is None:
        raise Errno(errno.EFAULT)
    _check_old(call, found)
    if not call.flags & MREMAP_FIXED:
        hint = call.new & -(1 << found.shift)
        free = hint and not mm.overlapping(hint, hint + call.new_length)
        call.new = hint if free else mm.gap(call.new_length, 1 << found.shift)
    _move(call, found, call.old, call.old_length, call.new, call.new_length)
    return call.new


def _remap_many(call: _Call) -> int:
    """Several mappings at once (6.17): a registered one stops it, those before have moved."""
    mm = call.mm
    end = call.old + call.old_length
    for vma in mm.overlapping(call.old, end):
        if vma.context is not None:
            raise Errno(errno.EFAULT)
        start, stop = max(vma.start, call.old), min(vma.end, end)
        new = call.new + start - call.old
        if (start | new) & ((1 << vma.shift) - 1):
            raise Errno(errno.EINVAL)
        unmap_locked(mm, new, new + stop - start, call.early)
        source = mm.find(start)  # the target may have been cut out of the same mapping
        assert source is not None
        _move(call, source, start, stop - start, new, stop - start)
    return call.new


def _move(call: _Call, vma: Vma, old: int, old_length: int, new: int, new_length: int) -> None:
    mm = call.mm
    profile = mm.profile
    mm.start_write(vma)
    if new_length > old_length and vma.ops.pool:
        raise Errno(errno.EFAULT)
    unlocks = call.flags & MREMAP_DONTUNMAP and vma.flags & vmas.LOCKED
    if unlocks and not profile.dontunmap_unlocks_all:
        vma = mm.isolate(vma, old, old + old_length)
    offset = vma.offset + old - vma.start
    if vma.object is None and not vma.family:
        offset = new
    moved = vma.like(new, new + new_length, offset)
    follows = mm.userfaultfd.mremap_follows(vma)
    mm.insert(moved)
    _move_entries(mm, vma, moved, old, old_length, keep_wp=follows or vma.context is None)
    if follows:
        told = old_length if profile.remap_tells_moved else call.asked_length
        mm.userfaultfd.mremap_prep(vma, old, new, told, call.moved)
    elif vma.context is not None and not profile.moving_takes_neighbours:
        moved.reset_ctx()
    else:
        # The copy has joined its neighbours by now if they had the same registration, and the
        # whole of it loses it (measured on 6.1 to 7.2).
        _join(call, old, new, new_length)
        joined = mm.find(new)
        assert joined is not None
        joined.reset_ctx()
    if not old_length:
        pass  # a duplicate: the old mapping stays as it is
    elif call.flags & MREMAP_DONTUNMAP:
        vma.flags &= ~vmas.LOCKED
        if vma.end - vma.start == old_length:
            vma.family = 0
    else:
        if moved.promised is not None:
            _give_promises(mm, vma, old, old_length)
        unmap_locked(mm, old, old + old_length, call.unmaps)
    if follows:
        _join(call, old, new, new_length)


def _join(call: _Call, old: int, new: int, length: int) -> None:
    """The copy joins its neighbours; after DONTUNMAP not always the one that it is a copy of."""
    mm, end = call.mm, new + length
    profile = mm.profile
    if not call.flags & MREMAP_DONTUNMAP or profile.dontunmap_joins_source:
        mm.merge(new, end)
        return
    source, behind = mm.find(old), mm.find(end)
    after_source = source is not None and source.end == new
    if not after_source and source is not behind:
        mm.merge(new, end)
    elif not profile.dontunmap_joins_beside:
        return
    elif not after_source:
        mm.merge(new, end - 1)
    elif behind is not None and behind.start == end:
        mm.merge(end, end)


def _give_promises(mm: AddressSpace, vma: Vma, old: int, length: int) -> None:
    """The moved mapping keeps what was promised: nothing is given back with the old range."""
    part = mm.isolate(vma, old, old + length)
    part.promised = None


def _move_entries(
    mm: AddressSpace, vma: Vma, moved: Vma, old: int, length: int, *, keep_wp: bool
) -> None:
    """Entries go as they are; without an event of it, uffd bits and wp markers stay behind."""
    table = mm.table
    shift = vma.shift
    if "mremap-keeps-protection" in mm.config.bugs:
        keep_wp = True
    bits = 0 if keep_wp else pt.UFFD_WP | pt.UFFD_RWP
    moved_bit = softdirty.moved_bit(mm, shift)
    if moved_bit:
        bits |= pt.SOFT_CLEAN
    delta = moved.start - old
    if mm.thp:
        _move_huge(mm, moved, old, old + length, moved_bit, bits)
    if shift == 12 and length:  # of a mapping that is doubled (old length 0) nothing moves
        for table_start in range(old & pt.PMD_MASK, old + length, pt.PMD_SIZE):
            if table.has_table(table_start, shift):  # empty or not
                table.build(max(table_start, old) + delta, shift)
    for address in table.addresses(old, old + length, shift):
        entry = table.get(address, shift)
        assert entry is not None
        table.set(address, shift, None)
        flags, folio = entry
        if folio is not None:
            table.set(address + delta, shift, entry)
            if flags & bits or moved_bit:
                mm.change(moved, address + delta, entry, moved_bit, bits)
            continue
        if not keep_wp:
            flags &= ~pt.MARK_WP
        mm.mark(moved, address + delta, flags)


def _move_huge(mm: AddressSpace, moved: Vma, start: int, end: int, add: int, clear: int) -> None:
    """Huge pages move whole to where one can be (move_huge_pmd); others are split first."""
    delta = moved.start - start
    for address in thp.whole(mm, start, end):
        new = address + delta
        if new & ~pt.PMD_MASK or mm.table.has_table(new, 12):
            thp.split(mm, address)
            continue
        entry = mm.take_thp(address)
        mm.put_thp(new, entry)
        mm.change(moved, new, entry, add, clear)
