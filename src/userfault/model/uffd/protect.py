"""UFFDIO_WRITEPROTECT and UFFDIO_RWPROTECT."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from userfault.model.errors import Errno
from userfault.model.mm import pgtable as pt
from userfault.model.mm import thp
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.uffd.context import Context
from userfault.uapi import userfaultfd as abi


@contextlib.contextmanager
def _locked(context: Context) -> Iterator[AddressSpace]:
    """The address space with its lock held for reading; EAGAIN while an event is pending."""
    mm = context.space()
    mm.lock.read()
    try:
        if context.is_changing:
            raise Errno(errno.EAGAIN)
        yield mm
    finally:
        mm.lock.read_done()


def _demand(vma: Vma, mode: int, start: int, length: int) -> None:
    """The mapping is registered in `mode`, and the range is of whole pages of it."""
    if not vma.modes & mode:
        raise Errno(errno.ENOENT)
    if (start | length) & ((1 << vma.shift) - 1):
        raise Errno(errno.EINVAL)


def writeprotect(context: Context, start: int, length: int, *, protect: bool) -> None:
    """UFFDIO_WRITEPROTECT, mapping by mapping: those before a bad one stay changed."""
    end = start + length
    with _locked(context) as mm:
        found = mm.overlapping(start, end)
        if not found:
            raise Errno(errno.ENOENT)
        whole = found[0].start <= start and found[0].end >= end
        if not whole and not mm.machine.profile.wp_many_mappings:
            raise Errno(errno.ENOENT)
        for vma in found:
            _demand(vma, vmas.WP, start, length)
            set_wp(mm, vma, max(start, vma.start), min(end, vma.end), protect=protect)


def set_wp(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Set or clear write protection of [start, end) of one mapping, markers included."""
    _set_wp_of_huge(mm, vma, start, end, protect=protect)
    table = mm.table
    if not protect:
        for address in table.addresses(start, end, vma.shift):
            entry = table.get(address, vma.shift)
            assert entry is not None
            flags, folio = entry
            if folio is None:
                # Poison and guards are passed over: the bit that PAGEMAP_SCAN gave them stays.
                if flags & pt.MARKS == pt.MARK_WP:
                    mm.mark(vma, address, flags & ~pt.MARK_WP)
            elif flags & pt.UFFD_WP:
                mm.change(vma, address, entry, 0, pt.UFFD_WP)
        return
    for address in _pages(mm, vma, start, end):
        entry = table.get(address, vma.shift)
        if entry is None:
            table.set(address, vma.shift, pt.MARKER_WP)
        elif entry[1] is not None and entry[0] & (pt.UFFD_WP | pt.WP_OPEN) != pt.UFFD_WP:
            mm.change(vma, address, entry, pt.UFFD_WP, 0)


def _set_wp_of_huge(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Huge pages of the range: whole ones stay huge, parts of others are split off."""
    for address in thp.whole(mm, start, end):
        entry = mm.table.huge[address]
        if not protect:
            mm.change(vma, address, entry, 0, pt.UFFD_WP)
        elif entry[0] & (pt.UFFD_WP | pt.WP_OPEN) != pt.UFFD_WP:
            mm.change(vma, address, entry, pt.UFFD_WP, 0)


def marks_empty(vma: Vma) -> bool:
    """Whether protecting leaves markers where nothing is: files always, else WP_UNPOPULATED."""
    if vma.ops.fault_folio is not None:
        return True
    context = vma.context
    return context is not None and bool(context.features & abi.UFFD_FEATURE_WP_UNPOPULATED)


def _pages(mm: AddressSpace, vma: Vma, start: int, end: int) -> list[int]:
    if marks_empty(vma):
        every = range(start, end, 1 << vma.shift)
        return [at for at in every if not mm.is_huge(at)]
    return list(mm.table.addresses(start, end, vma.shift))


def rwprotect(context: Context, start: int, length: int, *, protect: bool) -> None:
    """UFFDIO_RWPROTECT (7.3): everything is checked before anything changes."""
    end = start + length
    with _locked(context) as mm:
        found = mm.overlapping(start, end)
        if not found:
            raise Errno(errno.ENOENT)
        for vma in found:
            _demand(vma, vmas.RWP, start, length)
        for vma in found:
            set_rwp(mm, vma, max(start, vma.start), min(end, vma.end), protect=protect)


def set_rwp(mm: AddressSpace, vma: Vma, start: int, end: int, *, protect: bool) -> None:
    """Present pages become inaccessible, or accessible again; nothing is left where none is."""
    add, clear = (pt.UFFD_RWP, 0) if protect else (0, pt.UFFD_RWP)
    pages = [*thp.whole(mm, start, end), *mm.table.addresses(start, end, vma.shift)]
    for address in pages:
        entry = mm.entry(vma, address)
        assert entry is not None
        if entry[1] is not None and bool(entry[0] & pt.UFFD_RWP) is not protect:
            mm.change(vma, address, entry, add, clear)
