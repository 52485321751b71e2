"""What kind of fault is this: resolved by the kernel, a userfault, or a signal.

The order of the tests is that of the kernel: mapping, protection, marker, page cache, then the
modes of the registration.
"""

from __future__ import annotations

import errno
import signal

from userfault.model.errors import (
    BUS_ADRERR,
    BUS_MCEERR_AR,
    SEGV_ACCERR,
    SEGV_MAPERR,
    Errno,
    Refused,
    Signalled,
)
from userfault.model.files import folio as folios
from userfault.model.files.boundary import fault_folio
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode
from userfault.model.memtypes.boundary import get_folio
from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.cow import break_cow, private_page, where
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.uapi import userfaultfd as abi
from userfault.uapi.mman import PROT_WRITE

_MISSING = 0
_WP = abi.UFFD_PAGEFAULT_FLAG_WP
_MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
_RWP = abi.UFFD_PAGEFAULT_FLAG_RWP
_DECIDING = vmas.MISSING | vmas.MINOR  # modes in which the page cache decides about a message
_RESOLVED = -1
_AGAIN = -2  # the access is to be tried again, and nothing has changed


def fault(task: Task, mm: AddressSpace, address: int, *, write: bool, user: bool) -> None:
    """Handle one page fault of `task` in `mm`; afterwards the access is to be tried again.

    Raises Signalled: SIGSEGV, SIGBUS, or SIGKILL when there is no memory; for an access by the
    kernel (`user` False) callers turn it into EFAULT.
    """
    if task.killed:
        raise Errno(errno.EFAULT)
    vma = mm.enter(address)
    if vma is None:
        raise Signalled(signal.SIGSEGV, SEGV_MAPERR, address)
    waiter = None
    try:
        if not (vma.prot & PROT_WRITE if write else vma.prot):
            raise Signalled(signal.SIGSEGV, SEGV_ACCERR, address)
        reason = _resolve(mm, vma, address, write)
        if reason >= 0:
            waiter = mm.userfaultfd.fault(task, vma, address, reason, write=write, user=user)
    finally:
        mm.leave(vma)
    if waiter is not None:
        waiter.sleep()
        if "fault-retried-once" in mm.config.bugs:
            _retry_once(mm, address, write=write, user=user)
    elif reason == _AGAIN:
        task.sched.spin(lambda: f"a write to {address:#x} of another registration's protection")


def _retry_once(mm: AddressSpace, address: int, *, write: bool, user: bool) -> None:
    """The second try of a fault must not wait any more, as an old bug had it."""
    vma = mm.enter(address)
    if vma is None:
        return
    try:
        waits = _resolve(mm, vma, address, write) >= 0
    finally:
        mm.leave(vma)
    if waits:
        if RECORD.on:
            RECORD.notes.append(("refused", vma.context, address))
        if not user:
            raise Errno(errno.EFAULT)
        raise Signalled(signal.SIGBUS, BUS_ADRERR, address)


def fault_held(mm: AddressSpace, vma: Vma, address: int) -> bool:
    """A write fault of the kernel's own that cannot wait, since it holds the lock for writing.

    False where it would be a message or a signal: nobody is told, and the caller gives up.
    """
    try:
        return _resolve(mm, vma, address, True) == _RESOLVED
    except Signalled:
        return False


def _resolve(mm: AddressSpace, vma: Vma, address: int, write: bool) -> int:
    page = address & -(1 << vma.shift)
    entry = mm.entry(vma, page)
    if entry is None:
        return _empty(mm, vma, page, address, 0, write)
    flags, folio = entry
    if folio is not None:
        if is_being_copied(mm, vma, page):
            return _unlike(vma, page)
        return _present(mm, vma, page, address, entry, write)
    if flags & pt.MARK_POISON:
        if mm.config.memory_failure:
            raise Signalled(signal.SIGBUS, BUS_MCEERR_AR, address, vma.shift)
        raise Signalled(signal.SIGBUS, BUS_ADRERR, address, vma.shift)
    if flags & pt.MARK_GUARD:
        raise Signalled(signal.SIGSEGV, SEGV_MAPERR, address)
    if not vma.modes & vmas.WP and not vma.ops.pool:  # left over from another registration
        mm.mark(vma, page, 0)
        return _empty(mm, vma, page, address, 0, write)
    return _empty(mm, vma, page, address, pt.UFFD_WP, write)


def is_being_copied(mm: AddressSpace, vma: Vma, page: int) -> bool:
    """Whether another task is just copying this page, so that a touch of it becomes a message."""
    return page in mm.flushing and _unlike(vma, page) != _RESOLVED


def _unlike(vma: Vma, page: int) -> int:
    """A page that another task is copying has no entry for a moment (seen on 6.18): a message.

    Not of anonymous memory: do_anonymous_page() takes the page-table lock, under which the entry is
    replaced, and looks at it once more before it tells anybody; shmem_fault() takes none.
    """
    target = vma.object
    if target is None:
        return _RESOLVED
    if target.cached(vma.index(page)) is not None:
        return _MINOR if vma.modes & vmas.MINOR else _RESOLVED
    beyond = vma.index(page) >= target.pages()
    return _MISSING if vma.modes & vmas.MISSING and not beyond else _RESOLVED


def _empty(mm: AddressSpace, vma: Vma, page: int, address: int, wp: int, write: bool) -> int:
    """Nothing is mapped; `wp` is the bit that a marker left there."""
    if write and not vma.shared and not vma.ops.pool:
        mm.prepare_private(vma)  # before it is known whether a message has to be sent
    if vma.ops.fault_folio is not None:
        if vma.ops.pool:
            mm.table.build(page, vma.shift)
        return _empty_file(mm, vma, page, address, wp, write)
    if _comes_huge(mm, vma, page & pt.PMD_MASK):
        huge = _empty_huge(mm, vma, page & pt.PMD_MASK, write)
        if huge is not None:
            return huge
    mm.table.build(page, vma.shift)
    if vma.modes & vmas.MISSING:
        return _MISSING
    if not write and vma.ops.zero_page:
        mm.map_folio(vma, page, wp, mm.memory.zero)
        return _RESOLVED
    mm.prepare_private(vma)
    folio = private_page(mm, vma, page, address)
    folio.clear()
    mm.unmap(vma, page)
    mm.map_folio(vma, page, wp | pt.EXCLUSIVE | pt.DIRTY, folio)
    return _RESOLVED


def _comes_huge(mm: AddressSpace, vma: Vma, start: int) -> bool:
    """Whether a fault is for a huge page: allowed there, and no table of small pages yet."""
    mode = mm.config.thp
    if mode == "never" or (mode == "madvise" and not vma.flags & vmas.HUGEPAGE):
        return False
    return (
        vma.object is None
        and vma.ops.movable
        and not vma.flags & vmas.NOHUGEPAGE
        and thp.suitable(vma, start)
        and not mm.table.has_table(start, 12)
    )


def _empty_file(mm: AddressSpace, vma: Vma, page: int, address: int, wp: int, write: bool) -> int:
    target = vma.object
    ops = vma.ops
    assert target is not None
    index = vma.index(page)
    # Cached neighbours come first, whatever becomes of this page (measured on 6.18).
    around = not write and not vma.modes & ~vmas.MISSING and ops.fault_around
    if around and _served_around(mm, vma, page, wp):
        return _RESOLVED
    cached = _asked(mm, vma, target, index)
    touchable = ops.touchable is None or ops.touchable(target)
    if _is_beyond(mm, vma, index, cached) or not touchable:
        raise Signalled(signal.SIGBUS, BUS_ADRERR, address)
    if cached is None:
        if vma.modes & vmas.MISSING:
            return _MISSING
    elif vma.modes & vmas.MINOR:
        return _MINOR
    if cached is not None and cached.flags & folios.LOCKED:
        mm.files.wait_folio(cached)
        return _RESOLVED
    if cached is not None and cached.flags & folios.HWPOISON:
        raise Signalled(signal.SIGBUS, BUS_MCEERR_AR, address, vma.shift)
    found = mm.entry(vma, page)
    folio = _file_page(mm, vma, page, address)
    if _was_overtaken(mm, vma, page, found, folio):
        return _RESOLVED
    flags = wp
    if folio.flags & folios.ANON:
        mm.prepare_private(vma)
        flags |= pt.EXCLUSIVE | pt.DIRTY
    elif write and not vma.shared and not _waits_protected(mm, vma, wp):
        folio = _copied(mm, vma, page, address, folio)
        flags |= pt.EXCLUSIVE | pt.DIRTY
        if ops.pool:
            flags &= ~pt.UFFD_WP
    mm.files.unlock_folio(folio)
    mm.unmap(vma, page)
    mm.map_folio(vma, page, flags, folio)
    return _RESOLVED


def _asked(mm: AddressSpace, vma: Vma, target: Inode, index: int) -> Folio | None:
    """Whether there is a page: one in swap counts, and stays there.

    The posted patches lock it, read it from swap, and let it go.
    """
    cached = target.cached(index)
    asks = vma.modes & _DECIDING and not vma.ops.pool  # hugetlb has a fault of its own
    if cached is None or not asks or "asks-by-lookup" not in mm.config.bugs:
        return cached
    mm.files.wait_folio(cached)
    try:
        folio = get_folio(mm.sched, vma.ops, target, index)
    except Refused:
        return target.cached(index)
    mm.files.unlock_folio(folio)
    mm.memory.put(folio)
    return folio


def _is_beyond(mm: AddressSpace, vma: Vma, index: int, cached: Folio | None) -> bool:
    """Whether a page lies beyond the end of its file; huge pages that are there may."""
    assert vma.object is not None
    generic = vma.modes & vmas.MISSING and not vma.ops.pool  # hugetlb has a fault of its own
    if "guest-memfd-no-end" in mm.config.bugs and generic:
        return False
    return index >= vma.object.pages() and not (vma.ops.pool and cached is not None)


def _was_overtaken(
    mm: AddressSpace, vma: Vma, page: int, found: pt.Entry | None, folio: Folio
) -> bool:
    """Whether the entry has changed while the page of the file was got, which is given back then.

    The table is locked only once the page is there (finish_fault); of huge pages a mutex is held
    (hugetlb_fault).
    """
    if not mm.sched.preemptive or vma.ops.pool:
        return False
    mm.memory.hold(folio)
    mm.sched.point("fault.install")
    mm.memory.release(folio)
    if mm.entry(vma, page) is found:
        return False
    mm.files.unlock_folio(folio)
    mm.memory.put(folio)
    return True


def _waits_protected(mm: AddressSpace, vma: Vma, wp: int) -> bool:
    """Whether a huge page is mapped with its marker's protection first, to be copied later."""
    if vma.modes & vmas.WP and mm.userfaultfd.wp_async(vma):
        return False
    return bool(wp) and vma.ops.pool


def _file_page(mm: AddressSpace, vma: Vma, page: int, address: int) -> Folio:
    """The type's page, locked and referenced."""
    try:
        return fault_folio(mm.sched, vma.ops, where(mm, vma, page, shared=vma.shared))
    except Refused as refusal:
        if refusal.code == errno.ENOMEM:
            raise Signalled(signal.SIGKILL, 0, address) from None
        raise Signalled(signal.SIGBUS, BUS_ADRERR, address) from None


def _copied(mm: AddressSpace, vma: Vma, page: int, address: int, folio: Folio) -> Folio:
    """A private copy of a locked cache page, which is given back; the copy comes locked."""
    mm.prepare_private(vma)
    try:
        copy = private_page(mm, vma, page, address)
        copy.copy_from(folio)
        copy.flags |= folios.LOCKED
        return copy
    finally:
        mm.files.unlock_folio(folio)
        mm.memory.put(folio)


def _served_around(mm: AddressSpace, vma: Vma, page: int, wp: int) -> bool:
    """Map around a read fault; whether there is no more to do than to try the access again."""
    around = _map_around(mm, vma, page)
    entry = mm.entry(vma, page)
    if entry is not None and not wp:
        return True
    if around:
        mm.sched.point("fault.around")
    return mm.entry(vma, page) is not entry  # another task was faster


def _map_around(mm: AddressSpace, vma: Vma, page: int) -> bool:
    """Map cached neighbours of a read fault: those that are finished and not locked.

    Whether there were any.
    """
    target = vma.object
    pages = mm.config.fault_around
    if target is None or pages < 2:
        return False
    mapped = False
    low = max(page & -(pages << 12), vma.start, page & pt.PMD_MASK)
    high = min(low + (pages << 12), vma.end, (page & pt.PMD_MASK) + pt.PMD_SIZE)
    for address in range(low, high, 4096):
        folio = target.cached(vma.index(address))
        if folio is None or mm.table.get(address) is not None:
            continue
        unlike = folios.LOCKED | folios.HWPOISON | folios.SWAPPED
        state = folio.flags & (unlike | folios.UPTODATE)
        if state == folios.UPTODATE and folio.index < target.pages():
            folio.get()
            mm.map_folio(vma, address, 0, folio)
            mapped = True
    return mapped


def _empty_huge(mm: AddressSpace, vma: Vma, start: int, write: bool) -> int | None:
    """Nothing is mapped in 2 MiB, and a huge page may be; None if it has to be a small one."""
    mm.prepare_private(vma)  # for a read too (do_huge_pmd_anonymous_page)
    mm.table.build(start, pt.PMD_SHIFT)
    if vma.modes & vmas.MISSING:
        return _MISSING
    if not write and vma.ops.zero_page:
        mm.map_thp(vma, start, 0, mm.memory.huge_zero)
        return _RESOLVED
    folio = thp.of_zeroes(mm)
    if folio is None:
        return None
    mm.map_thp(vma, start, pt.EXCLUSIVE | pt.DIRTY, folio)
    return _RESOLVED


def _present(
    mm: AddressSpace, vma: Vma, page: int, address: int, entry: pt.Entry, write: bool
) -> int:
    flags, folio = entry
    if flags & pt.UFFD_RWP:
        if vma.modes & vmas.RWP and not mm.userfaultfd.rwp_async(vma):
            return _RWP
        mm.change(vma, page, entry, 0, pt.UFFD_RWP)  # of a huge page: of the whole of it
        return _RESOLVED
    if not write or flags & pt.WRITE:
        return _RESOLVED
    if flags & pt.SOFT_CLEAN or flags & (pt.UFFD_WP | pt.WP_OPEN) == pt.UFFD_WP:
        return _protected(mm, vma, page, entry)
    assert folio is not None
    break_cow(mm, vma, page, address, folio)
    return _RESOLVED


def _protected(mm: AddressSpace, vma: Vma, page: int, entry: pt.Entry) -> int:
    """A write to a page that is protected, or whose writes are to be noticed."""
    if entry[0] & pt.UFFD_WP:
        if vma.modes & vmas.WP:
            if not mm.userfaultfd.wp_async(vma):
                return _WP
            if page & pt.PMD_MASK in mm.thp:  # what was written is told of small pages
                thp.split(mm, page & pt.PMD_MASK)
                return _RESOLVED
        elif vma.ops.pool:
            return _AGAIN  # left over from another registration: for ever (measured on 6.18)
        else:  # ... of a small page the bit stays, and is not looked at
            mm.change(vma, page, entry, pt.WP_OPEN, pt.SOFT_CLEAN)
            return _RESOLVED
    mm.change(vma, page, entry, 0, pt.UFFD_WP | pt.SOFT_CLEAN)
    return _RESOLVED
