"""madvise(2): what each advice does to pages, markers and registrations."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno, Signalled
from userfault.model.files import filesystem
from userfault.model.mm import access, collapse
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.uapi import mman

_EHWPOISON = 133  # not in every build of the errno module

_HINTS = {
    mman.MADV_WILLNEED,
    mman.MADV_COLD,
    mman.MADV_PAGEOUT,  # there is no swap
    mman.MADV_MERGEABLE,
    mman.MADV_UNMERGEABLE,
}


def madvise(task: Task, mm: AddressSpace, address: int, length: int, advice: int) -> None:
    """Raises Errno.  Holes are skipped and reported at the end (ENOMEM)."""
    action = _action(mm, advice)
    if address % PAGE:
        raise Errno(errno.EINVAL)
    end = address + round_up(length, PAGE)
    if end < address:
        raise Errno(errno.EINVAL)
    if end == address:
        return
    if action is _populate and not mm.profile.populate_skips_holes:
        _populate_all(task, mm, address, end, advice)
        return
    lock, unlock = _LOCKS.get(action, _NO_LOCK)
    lock(mm)
    try:
        hole = _walk(task, mm, address, end, advice, action)
    finally:
        unlock(mm)
    if hole:
        raise Errno(errno.ENOMEM)


_Action = Callable[[Task, AddressSpace, Vma, int, int, int], int]


def _walk(
    task: Task, mm: AddressSpace, at: int, end: int, advice: int, action: _Action | None
) -> bool:
    """Mapping by mapping; whether there was a hole."""
    hole = False
    while at < end:
        found = mm.overlapping(at, end)
        if not found:
            return True
        vma = found[0]
        if vma.start > at:
            hole = True
            at = vma.start
        stop = min(vma.end, end)
        if action is not None:
            # After an event the mapping may end earlier: what is left is looked at anew.
            stop = action(task, mm, vma, at, stop, advice)
        at = stop
    return hole


@contextlib.contextmanager
def _unlocked(mm: AddressSpace) -> Iterator[None]:
    """While an action sleeps, mappings may change."""
    mm.lock.read_done()
    try:
        yield
    finally:
        mm.lock.read()


def _action(mm: AddressSpace, advice: int) -> _Action | None:
    found = _ACTIONS.get(advice)
    guards = advice in (mman.MADV_GUARD_INSTALL, mman.MADV_GUARD_REMOVE)
    if found is None and advice not in _HINTS:
        raise Errno(errno.EINVAL)
    if guards and not mm.profile.guard_markers:
        raise Errno(errno.EINVAL)
    return found


def _dontneed(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    stop = end
    end = _check_dontneed(vma, start, end, advice)
    if start == end:
        return stop
    if mm.userfaultfd.remove(task, vma, start, end):
        again = mm.find(start) if "removal-of-old-mapping" not in mm.config.bugs else vma
        if again is None:
            raise Errno(errno.ENOMEM)
        vma = again
        if mm.profile.removal_goes_on:
            stop = min(stop, vma.end)
        end = min(_check_dontneed(vma, start, end, advice), vma.end)
    if advice == mman.MADV_FREE:
        _free(mm, vma, start, end)
    else:
        mm.zap(vma, start, end, drop_markers=False)
        if mm.profile.frees_tables and vma.shift == 12:
            mm.table.free_empty(start, end)
    return stop


def _check_dontneed(vma: Vma, start: int, end: int, advice: int) -> int:
    locked = vma.flags & vmas.LOCKED and advice != mman.MADV_DONTNEED_LOCKED
    if locked or vma.flags & vmas.SPECIAL:
        raise Errno(errno.EINVAL)
    if vma.shift != 12:
        size = 1 << vma.shift
        if advice == mman.MADV_FREE or start % size:
            raise Errno(errno.EINVAL)
        return end & -size
    return end


def _free(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Pages may go when memory is short, which it is not here; poison goes."""
    if vma.object is not None:
        raise Errno(errno.EINVAL)  # found out after the event (measured on 6.18)
    for address in mm.table.addresses(start, end, vma.shift):
        entry = mm.table.get(address, vma.shift)
        if entry is not None and entry[0] & pt.MARK_POISON:
            mm.mark(vma, address, entry[0] & ~pt.MARK_POISON)


def _remove(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    del advice
    target = vma.object
    if vma.flags & vmas.LOCKED or target is None:
        raise Errno(errno.EINVAL)
    if not vma.shared or not vma.flags & vmas.MAY_WRITE:
        raise Errno(errno.EACCES)
    offset = start - vma.start + vma.offset
    mm.files.link(target)
    try:
        mm.userfaultfd.remove(task, vma, start, end)
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        with _unlocked(mm):
            filesystem.fallocate(mm.files, target, mode, offset, end - start)
    finally:
        mm.files.unlink(target)
    return end


def _guard(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    files = mm.profile.release >= (6, 15)
    barred = vmas.SPECIAL | (vmas.LOCKED if advice == mman.MADV_GUARD_INSTALL else 0)
    if vma.shift != 12 or vma.flags & barred:
        raise Errno(errno.EINVAL)
    if not files and (vma.object is not None or not vma.prot & mman.PROT_WRITE):
        raise Errno(errno.EINVAL)
    if advice == mman.MADV_GUARD_REMOVE:
        _remove_guards(mm, vma, start, end)
        return end
    if RECORD.on:  # as the family of a mapping: seen where mappings join, and by fork
        RECORD.adds.add(("families", mm.number))
    vma.guarded = True
    if vma.object is None or mm.profile.guards_prepare_files:
        mm.prepare_private(vma)
    if not _install_guards(mm, vma, start, end):
        with _unlocked(mm):
            task.sched.spin(lambda: f"guards at {start:#x} where uffd-wp markers stay")
        return start
    return end


def _install_guards(mm: AddressSpace, vma: Vma, start: int, end: int) -> bool:
    """False where a uffd-wp marker of a file is: zapping leaves it (measured on 6.18)."""
    mm.zap(vma, start, end, drop_markers=False)
    if mm.sched.preemptive:
        mm.sched.point("guard.install")
    for address in range(start, end, PAGE):
        entry = mm.table.get(address)
        if entry is None:
            mm.table.set(address, 12, pt.MARKER_GUARD)
        elif entry[1] is not None:  # it came back meanwhile
            return _install_guards(mm, vma, start, end)
        elif not entry[0] & pt.MARK_GUARD:
            return False
    return True


def _remove_guards(mm: AddressSpace, vma: Vma, start: int, end: int) -> None:
    for address in mm.table.addresses(start, end):
        entry = mm.table.get(address)
        if entry is not None and entry[0] & pt.MARK_GUARD:
            mm.mark(vma, address, 0)


def _flags(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    del task
    wipe = advice == mman.MADV_WIPEONFORK
    if wipe and (vma.shared or vma.object is not None):
        raise Errno(errno.EINVAL)  # private anonymous memory only (madvise(2))
    if advice == mman.MADV_DOFORK and vma.ops.pool and not mm.profile.dofork_of_hugetlb:
        raise Errno(errno.EINVAL)
    undone = advice in (mman.MADV_KEEPONFORK, mman.MADV_DODUMP)
    if undone and vma.flags & vmas.DROPPABLE:
        raise Errno(errno.EINVAL)
    add, clear = _FLAGS[advice]
    if (vma.flags | add) & ~clear == vma.flags:
        return end
    part = mm.isolate(vma, start, end)
    mm.changed()
    part.flags = (part.flags | add) & ~clear
    mm.merge(start, end)
    return end


_FLAGS = {
    mman.MADV_HUGEPAGE: (vmas.HUGEPAGE, vmas.NOHUGEPAGE),
    mman.MADV_NOHUGEPAGE: (vmas.NOHUGEPAGE, vmas.HUGEPAGE),
    mman.MADV_NORMAL: (0, vmas.RANDOM | vmas.SEQUENTIAL),
    mman.MADV_RANDOM: (vmas.RANDOM, vmas.SEQUENTIAL),
    mman.MADV_SEQUENTIAL: (vmas.SEQUENTIAL, vmas.RANDOM),
    mman.MADV_DONTDUMP: (vmas.DONTDUMP, 0),
    mman.MADV_DODUMP: (0, vmas.DONTDUMP),
    mman.MADV_DONTFORK: (vmas.DONTFORK, 0),
    mman.MADV_DOFORK: (0, vmas.DONTFORK),
    mman.MADV_WIPEONFORK: (vmas.WIPEONFORK, 0),
    mman.MADV_KEEPONFORK: (0, vmas.WIPEONFORK),
}


def _populates(vma: Vma, write: bool) -> bool:
    return bool(vma.prot & mman.PROT_WRITE if write else vma.prot)


def _populate(task: Task, mm: AddressSpace, vma: Vma, start: int, end: int, advice: int) -> int:
    """Of one mapping; what lies there after a message was served may be another one."""
    del vma
    _populate_all(task, mm, start, end, advice)
    return end


def _populate_all(task: Task, mm: AddressSpace, start: int, end: int, advice: int) -> None:
    write = advice == mman.MADV_POPULATE_WRITE
    at = start
    while at < end:
        vma = mm.find(at)
        if vma is None:
            raise Errno(errno.ENOMEM)
        stop = min(vma.end, end)
        if not _populates(vma, write):
            raise Errno(errno.EINVAL)
        try:
            access.populate(task, mm, at, stop, write=write)
        except Signalled as signalled:
            if signalled.lsb:  # poison, whatever its signal code would be
                raise Errno(_EHWPOISON) from None
            # The mapping may have changed while a message was served.
            now = mm.find(signalled.address)
            if now is None:
                raise Errno(errno.ENOMEM) from None
            raise Errno(errno.EFAULT if _populates(now, write) else errno.EINVAL) from None
        at = stop


_ACTIONS: dict[int, _Action] = {
    mman.MADV_DONTNEED: _dontneed,
    mman.MADV_DONTNEED_LOCKED: _dontneed,
    mman.MADV_FREE: _dontneed,
    mman.MADV_REMOVE: _remove,
    mman.MADV_GUARD_INSTALL: _guard,
    mman.MADV_GUARD_REMOVE: _guard,
    mman.MADV_POPULATE_READ: _populate,
    mman.MADV_POPULATE_WRITE: _populate,
    mman.MADV_COLLAPSE: collapse.collapse,
    **dict.fromkeys(_FLAGS, _flags),
}

_Locking = Callable[[AddressSpace], None]


def _read(mm: AddressSpace) -> None:
    mm.lock.read()


def _read_done(mm: AddressSpace) -> None:
    mm.lock.read_done()


def _nothing(mm: AddressSpace) -> None:
    del mm


# What is held while mappings are looked up and acted upon.
_NO_LOCK: tuple[_Locking, _Locking] = (_nothing, _nothing)
_LOCKS: dict[_Action | None, tuple[_Locking, _Locking]] = {
    **dict.fromkeys((None, _dontneed, _remove, _guard), (_read, _read_done)),
    **dict.fromkeys((_flags, collapse.collapse), (AddressSpace.write, AddressSpace.write_done)),
}
