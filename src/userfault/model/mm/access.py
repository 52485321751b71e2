"""Touches of memory: by the program, and by the kernel on its behalf.

A touch that does not fault is a lookup in the page table.  `load` and `store` go page by page, so
what was done before a signal stays done.
"""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno, Signalled
from userfault.model.mm import pgtable as pt
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.fault import fault, fault_held, is_being_copied
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task

_GIB_MASK = ~((1 << 30) - 1)


def entry_at(mm: AddressSpace, address: int) -> tuple[pt.Entry | None, int]:
    """The entry that translates `address`, and the address of its page."""
    if RECORD.on:
        number = mm.table.number
        RECORD.reads.add(("entry", number, address & -PAGE))
        RECORD.reads.add(("huge", number, address & pt.PMD_MASK))
        RECORD.reads.add(("huge", number, address & _GIB_MASK))
    table = mm.table.tables.get(address >> 21)
    if table is not None:
        entry = table[(address >> 12) & 511]
        if entry is not None:
            page = address & -PAGE
            if mm.flushing and _is_empty_now(mm, page):
                return None, 0
            return entry, page
    huge = mm.table.huge
    if huge:
        for mask in (pt.PMD_MASK, _GIB_MASK):
            entry = huge.get(address & mask)
            if entry is not None:
                folio = entry[1]
                size = PAGE << folio.order if folio is not None else -mask
                if (address & mask) + size > address:
                    return entry, address & mask
    return None, 0


def _is_empty_now(mm: AddressSpace, page: int) -> bool:
    """Whether the entry that is there is empty for a moment: another task is copying the page."""
    vma = mm.find(page)
    return vma is not None and is_being_copied(mm, vma, page)


def load(
    task: Task, mm: AddressSpace, address: int, length: int, parts: list[bytes], *, user: bool
) -> None:
    """Read memory into `parts`; raises Signalled with what was read so far in them."""
    end = address + length
    while address < end:
        step = min(PAGE - address % PAGE, end - address)
        while True:
            entry, page = entry_at(mm, address)
            if entry is not None and entry[0] & pt.READ:
                break
            fault(task, mm, address, write=False, user=user)
        assert entry[1] is not None
        parts.append(entry[1].read(address - page, step))
        address += step


def store(task: Task, mm: AddressSpace, address: int, data: bytes, *, user: bool) -> None:
    """Write memory; raises Signalled, whose address tells how far it came."""
    at = 0
    while at < len(data):
        step = min(PAGE - address % PAGE, len(data) - at)
        while True:
            entry, page = entry_at(mm, address)
            if entry is not None and entry[0] & pt.WRITE:
                break
            fault(task, mm, address, write=True, user=user)
        _put(mm, entry, page, address, data[at : at + step])
        address += step
        at += step


def _put(mm: AddressSpace, entry: pt.Entry, page: int, address: int, data: bytes) -> None:
    flags, folio = entry
    assert folio is not None
    folio.write(address - page, data)
    if not flags & pt.DIRTY:
        vma = mm.find(address)
        assert vma is not None
        mm.change(vma, page, entry, pt.DIRTY, 0)


def load_now(mm: AddressSpace, address: int, length: int) -> bytes | None:
    """The bytes if nothing faults, else None."""
    first = address % PAGE
    if first + length <= PAGE:
        entry, page = entry_at(mm, address)
        if entry is None or not entry[0] & pt.READ:
            return None
        assert entry[1] is not None
        return entry[1].read(address - page, length)
    parts = []
    end = address + length
    while address < end:
        step = min(PAGE - address % PAGE, end - address)
        entry, page = entry_at(mm, address)
        if entry is None or not entry[0] & pt.READ:
            return None
        assert entry[1] is not None
        parts.append(entry[1].read(address - page, step))
        address += step
    return b"".join(parts)


def store_now(mm: AddressSpace, address: int, data: bytes) -> bool:
    """Write if nothing faults; False (and nothing written) otherwise.  Within one page."""
    if address % PAGE + len(data) > PAGE:
        return False
    entry, page = entry_at(mm, address)
    if entry is None or not entry[0] & pt.WRITE:
        return False
    _put(mm, entry, page, address, data)
    return True


def copy_in(task: Task, mm: AddressSpace, address: int, length: int) -> bytes:
    """copy_from_user: the kernel reads the caller's memory; EFAULT where it cannot."""
    found = load_now(mm, address, length)
    if found is not None:
        return found
    parts: list[bytes] = []
    try:
        load(task, mm, address, length, parts, user=False)
    except Signalled:
        raise Errno(errno.EFAULT) from None
    return b"".join(parts)


def copy_out(task: Task, mm: AddressSpace, address: int, data: bytes) -> None:
    """copy_to_user: the kernel writes the caller's memory; EFAULT where it cannot."""
    try:
        store(task, mm, address, data, user=False)
    except Signalled:
        raise Errno(errno.EFAULT) from None


def populate(task: Task, mm: AddressSpace, start: int, end: int, *, write: bool) -> None:
    """Fault pages in, as MADV_POPULATE_* does; raises Signalled or Errno."""
    address = start
    while address < end:
        address = populate_page(task, mm, address, write=write)


def populate_held(mm: AddressSpace, start: int, end: int) -> None:
    """Make pages of one mapping writable while the lock is held for writing.

    It stops at the first page that is not: there is nobody to tell.
    """
    vma = mm.find(start)
    assert vma is not None
    while start < end:
        entry, page = entry_at(mm, start)
        if entry is not None and entry[0] & pt.WRITE and entry[1] is not None:
            start = max(page + (PAGE << entry[1].order), start + PAGE)
        elif not fault_held(mm, vma, start):
            return


def populate_page(task: Task, mm: AddressSpace, address: int, *, write: bool) -> int:
    """Fault one page in: the address of the next one, or the same one to be tried again."""
    entry, page = entry_at(mm, address)
    if entry is None or not entry[0] & (pt.WRITE if write else pt.READ):
        fault(task, mm, address, write=write, user=False)
        return address
    folio = entry[1]
    assert folio is not None
    return max(page + (PAGE << folio.order), address + PAGE)
