"""What COPY, ZEROPAGE, CONTINUE and POISON do with one page, for every memory type.

An *action* makes what is to be there (a folio, the zero page, a marker), and `install` puts it into
the page table or says why not.  Types appear through their table only.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn

import msgspec

from userfault.model.errors import Errno, Refused
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio
from userfault.model.files.inode import Inode
from userfault.model.files.ops import Where
from userfault.model.memtypes import boundary
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import pgtable as pt
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.cow import where
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.uffd.source import Job, SourceMissing, identity, peek
from userfault.uapi.mman import PROT_WRITE


def copy(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_COPY of one page."""
    check_before(job, vma, address)
    folio, place, ops = _new(job, vma, address)
    try:
        content = job.content
        if content is None:
            content = peek(job, address - job.dst, 1 << vma.shift)
    except BaseException:
        _undo(job, ops, place, folio)
        raise
    if content is None:
        _undo(job, ops, place, folio)
        raise SourceMissing
    folio.content = content
    _publish(job, vma, address, folio, place, ops)


def zeropage(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_ZEROPAGE of one page: the zero page where it may be, else a page of zeros."""
    if not vma.shared and vma.ops.zero_page:
        map_zero(job, vma, address)
        return
    folio, place, ops = _new(job, vma, address)
    folio.clear()
    _publish(job, vma, address, folio, place, ops)


def continue_(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_CONTINUE of one page: what is in the page cache."""
    mm = job.mm
    target = vma.object
    assert target is not None
    index = vma.index(address)
    nothing = find_cached(mm, vma, target, index)
    try:
        folio = boundary.get_folio(mm.sched, vma.ops, target, index)
    except Refused:
        raise Errno(nothing) from None
    try:
        if folio.flags & folios.HWPOISON:
            raise Errno(errno.EIO)
        mm.memory.hold(folio)
        try:
            if mm.sched.preemptive:
                mm.sched.point("fill.install")
        finally:
            mm.memory.release(folio)
        install(job, vma, address, folio, 0)
    except BaseException:
        mm.files.unlock_folio(folio)
        mm.memory.put(folio)
        if "huge-continue-reserves" in mm.config.bugs and vma.ops.pool:
            mm.memory.pools[vma.shift].reserved += 1
        raise
    mm.files.unlock_folio(folio)


def poison(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_POISON of one page: a marker; the page cache is not looked at."""
    _check_size(vma, address)
    if job.mm.entry(vma, address) is not None:
        raise Errno(errno.EEXIST)
    _note(job, vma, address)
    job.mm.mark(vma, address, pt.MARK_POISON)


class Operation(msgspec.Struct, frozen=True, eq=False):
    """One of the four, by the name under which a type may run it itself (`MemoryOps.runs`)."""

    name: str
    page: Callable[[Job, Vma, int], None]


COPY = Operation("copy", copy)
ZEROPAGE = Operation("zeropage", zeropage)
CONTINUE = Operation("continue", continue_)
POISON = Operation("poison", poison)


# --- their steps ---------------------------------------------------------------------------------


def _is_cached(mm: AddressSpace, vma: Vma) -> bool:
    """Whether a page that fills this mapping goes into the page cache."""
    if "private-copy-in-file" in mm.config.bugs:
        return vma.object is not None
    return vma.shared


def _new(job: Job, vma: Vma, address: int) -> tuple[Folio, Where, MemoryOps]:
    """A folio from the type's allocator."""
    mm = job.mm
    cached = _is_cached(mm, vma)
    ops = vma.ops if cached else vma.ops.for_private
    place = where(mm, vma, address, shared=cached)
    folio = boundary.alloc_folio(mm.sched, ops, place)
    if folio is None:
        refuse(job, vma, place)
    return folio, place, ops


def refuse(job: Job, vma: Vma, place: Where) -> NoReturn:
    """There is no new page: why not."""
    profile = job.mm.profile
    if vma.ops.pool:
        raise Errno(profile.no_huge_page)
    if vma.shared and vma.object is not None and place.index >= vma.object.pages():
        raise Errno(profile.copy_beyond_eof)
    raise Errno(errno.ENOMEM)


def _publish(job: Job, vma: Vma, address: int, folio: Folio, place: Where, ops: MemoryOps) -> None:
    """A finished folio: into the cache if the mapping is shared, then into the page table."""
    mm = job.mm
    folio.flags |= folios.UPTODATE
    flags = 0 if vma.shared else pt.EXCLUSIVE
    cached = _is_cached(mm, vma)
    if cached:
        try:
            boundary.filemap_add(mm.sched, ops, folio, place)
        except BaseException:
            kept = "leaks-after-retry" in mm.config.bugs and job.content is not None
            if not kept:
                _undo(job, ops, place, folio)
            raise
    try:
        if mm.sched.preemptive:
            mm.memory.hold(folio)
            mm.sched.point("fill.install")
            mm.memory.release(folio)
        install(job, vma, address, folio, flags)
    except BaseException:
        if cached and place.object is not None:
            try:
                boundary.filemap_remove(mm.sched, ops, folio, place.object)
            finally:
                mm.files.unlock_folio(folio)  # whoever came for its lock looks again
                _undo(job, ops, place, folio)
        else:
            _undo(job, ops, place, folio)
        raise
    if cached:
        mm.files.unlock_folio(folio)


def check_before(job: Job, vma: Vma, address: int) -> None:
    """What COPY of one page looks at before it has a page."""
    if vma.ops.occupied_first:
        there = job.mm.entry(vma, address)
        if there is not None and there[0] & pt.PRESENT:
            raise Errno(errno.EEXIST)
    _source_first(job, vma, address)


def map_zero(job: Job, vma: Vma, address: int) -> None:
    """The zero page, where nothing is."""
    _check_size(vma, address)
    if job.mm.entry(vma, address) is not None:
        raise Errno(errno.EEXIST)
    _note(job, vma, address)
    job.mm.map_folio(vma, address, 0, job.mm.memory.zero)


def find_cached(mm: AddressSpace, vma: Vma, target: Inode, index: int) -> int:
    """Wait for the lock of the cached page; the errno of CONTINUE should there be none."""
    beyond = vma.ops.size_checked_at_entry and index >= target.pages()
    cached = target.cached(index)
    if cached is not None:
        mm.files.wait_folio(cached)
    return mm.profile.continue_beyond_eof if beyond else errno.EFAULT


def _source_first(job: Job, vma: Vma, address: int) -> None:
    """Up to 6.18 the end of the file was looked at after the source had been faulted in."""
    if job.mm.profile.copy_beyond_eof != errno.EFAULT or not vma.shared:
        return
    target = vma.object
    assert target is not None
    beyond = vma.ops.size_checked_at_entry and vma.index(address) >= target.pages()
    if beyond and job.content is None and peek(job, address - job.dst, 1 << vma.shift) is None:
        raise SourceMissing


def _undo(job: Job, ops: MemoryOps, place: Where, folio: Folio) -> None:
    boundary.undo_alloc(job.mm.sched, ops, place, folio)


def _check_size(vma: Vma, address: int) -> None:
    target = vma.object
    if (
        target is not None
        and vma.ops.size_checked_at_entry
        and vma.index(address) >= target.pages()
    ):
        raise Errno(errno.EFAULT)


def install(job: Job, vma: Vma, address: int, folio: Folio, flags: int) -> None:
    """The only place that decides "already there"."""
    mm = job.mm
    if mm.sched.preemptive and not mm.table.has_table(address, vma.shift):
        raise Errno(errno.EAGAIN)  # MADV_DONTNEED has freed the table meanwhile
    _check_size(vma, address)
    there = mm.entry(vma, address)
    if there is not None:
        guarded = there[0] & pt.MARK_GUARD and not mm.profile.copy_over_guard
        if there[0] & pt.PRESENT or guarded:
            raise Errno(errno.EEXIST)
    wp = job.wp
    if "read-only-fill-unprotected" in mm.config.bugs:
        wp = wp and bool(vma.prot & PROT_WRITE)
    _note(job, vma, address)
    mm.map_folio(vma, address, flags | pt.DIRTY | (pt.UFFD_WP if wp else 0), folio)


def _note(job: Job, vma: Vma, address: int) -> None:
    """A page is filled; what is there is looked at once more."""
    if RECORD.on:
        RECORD.reads.add(("changing", job.context.number))  # which the rules look at
        found = job.mm.table.get(address, vma.shift)
        same = identity(vma, job.dst) == job.asked
        RECORD.notes.append(("fill", job.context, vma, address, found, job, same))
