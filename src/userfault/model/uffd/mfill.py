"""The one loop that COPY, ZEROPAGE, CONTINUE and POISON share, for every memory type.

One page at a time: an *action* makes what is to be there (a folio, the zero page, a marker), and
`_install` puts it into the page table or says why not.  Types appear through their table only.
The mapping is locked throughout, but for the one place where a COPY's source has to be faulted
in: there it is let go, and everything is looked at again afterwards.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import ContractBreach, Errno, Refused
from userfault.model.files import folio as folios
from userfault.model.files.folio import Content, Folio, intern
from userfault.model.files.ops import Where
from userfault.model.memtypes import boundary
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import pgtable as pt
from userfault.model.mm import vma as vmas
from userfault.model.mm.access import copy_in, entry_at
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.cow import where
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd.context import Context
from userfault.uapi.mman import PROT_WRITE

Source = int | bytes | bytearray | memoryview


class Job:
    """One call of a fill operation.  `source`: bytes, or an address in the memory of `caller`."""

    __slots__ = (
        "asked",
        "caller",
        "content",
        "context",
        "dst",
        "length",
        "mm",
        "quiet",
        "source",
        "task",
        "vma",
        "wp",
    )

    def __init__(
        self,
        task: Task,
        context: Context,
        dst: int,
        length: int,
        wp: bool,
        source: Source = 0,
        caller: AddressSpace | None = None,
    ) -> None:
        self.task = task
        self.caller = caller or context.mm  # where an address of the source lies
        self.context = context
        self.mm = context.mm
        self.dst = dst
        self.length = length
        self.wp = wp
        self.source = source
        self.vma: Vma | None = None  # which is locked
        self.quiet = False  # and no event can be announced
        self.asked: tuple[object, ...] = ()  # what was found at first (see `identity`)
        self.content: Content | None = None  # of the next page, when it had to be faulted in


class _SourceMissing(Exception):  # noqa: N818  # not an error: the slow path
    pass


Action = Callable[[Job, Vma, int], None]


def fill(job: Job, action: Action) -> tuple[int, int]:
    """Run `action` over the range: (bytes done, errno that ended it or 0).

    Raises Errno where the result field stays untouched (ESRCH).
    """
    with job.context.space() as mm:
        return _fill(job, action, mm)


def _fill(job: Job, action: Action, mm: AddressSpace) -> tuple[int, int]:
    sched = mm.sched
    done = 0
    code = 0
    try:
        vma = _destination(job, action)
        job.asked = identity(vma, job.dst)
        step = 1 << vma.shift
        while done < job.length:
            if done and sched.preemptive:
                sched.point("fill.page")
            if job.task.killed:
                raise Errno(errno.EINTR)
            if mm.is_huge(job.dst + done):
                raise Errno(errno.EEXIST)  # before anything else is looked at
            mm.table.build(job.dst + done, vma.shift)  # whatever becomes of the page
            try:
                action(job, vma, job.dst + done)
            except _SourceMissing:
                vma = _fault_source_in(job, action, done, step)
                continue
            job.content = None
            done += step
    except Errno as stop:
        code = stop.code
    except Refused as refusal:
        code = refusal.code
    except ContractBreach as breach:
        mm.spaces.breaches.append(breach)
        raise
    finally:
        _leave(job)
    return done, code


def _leave(job: Job) -> None:
    """Give up what `_destination` took, as far as it came."""
    if job.quiet:
        job.quiet = False
        job.context.map_changing.read_done()
    if job.vma is not None:
        job.mm.leave(job.vma)
        job.vma = None


def _destination(job: Job, action: Action) -> Vma:
    """The mapping to fill, locked, after every check that does not look at a page."""
    mm = job.mm
    prepares_first = mm.profile.fill_prepares_first
    vma = job.vma = mm.enter(job.dst)
    if not prepares_first and job.context.is_changing:
        raise Errno(errno.EAGAIN)
    if prepares_first and vma is not None and not vma.shared:
        mm.prepare_private(vma)
    if vma is None or job.dst + job.length > vma.end or vma.context is None:
        raise Errno(errno.ENOENT)
    if mm.vma_locks:
        job.context.map_changing.read_at_once()
        job.quiet = True
    if job.context.is_changing:
        raise Errno(errno.EAGAIN)
    if job.wp and not vma.modes & vmas.WP:
        raise Errno(errno.EINVAL)
    if (job.dst | job.length) & ((1 << vma.shift) - 1):
        raise Errno(errno.EINVAL)
    ops = vma.ops
    # hugetlb has a loop of its own that asks for no table: it serves SysV segments on 7.x, too.
    if ops.uffd.can_userfault is None and not ops.pool:
        raise Errno(errno.EINVAL)
    if action is zeropage and not ops.zeropage:
        raise Errno(errno.EINVAL)
    if action is continue_ and ops.uffd.get_folio_noalloc is None:
        raise Errno(errno.EINVAL)
    if not vma.shared:
        mm.prepare_private(vma)
    return vma


def _fault_source_in(job: Job, action: Action, done: int, step: int) -> Vma:
    """Copy the next page with faults allowed and no lock held; the destination once more."""
    mm = job.mm
    assert isinstance(job.source, int)
    _leave(job)
    if mm.sched.preemptive:
        mm.sched.point("copy.user")
    content = _copied_in(job.task, job.caller, job.source + done, step)
    vma = _destination(job, action)
    if 1 << vma.shift != step:
        raise Errno(errno.EAGAIN)
    checks = mm.profile.checks_after_retry and "copy-retry-unchecked" not in mm.config.bugs
    if checks and identity(vma, job.dst) != job.asked:
        raise Errno(errno.EAGAIN)
    job.content = content
    return vma


def identity(vma: Vma, address: int) -> tuple[object, ...]:
    """What must not have changed while the locks were dropped."""
    at = vma.index(address) if vma.object is not None else 0
    return vma.modes, vma.shared, vma.ops, vma.object, at


# --- actions -------------------------------------------------------------------------------------


def copy(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_COPY of one page."""
    if vma.ops.occupied_first:
        there = job.mm.entry(vma, address)
        if there is not None and there[0] & pt.PRESENT:
            raise Errno(errno.EEXIST)
    _source_first(job, vma, address)
    folio, place, ops = _new(job, vma, address)
    try:
        content = job.content
        if content is None:
            content = _peek(job, address - job.dst, 1 << vma.shift)
    except BaseException:
        _undo(job, ops, place, folio)
        raise
    if content is None:
        _undo(job, ops, place, folio)
        raise _SourceMissing
    folio.content = content
    _publish(job, vma, address, folio, place, ops)


def zeropage(job: Job, vma: Vma, address: int) -> None:
    """UFFDIO_ZEROPAGE of one page: the zero page where it may be, else a page of zeros."""
    if not vma.shared and vma.ops.zero_page:
        _check_size(vma, address)
        if job.mm.entry(vma, address) is not None:
            raise Errno(errno.EEXIST)
        _note(job, vma, address)
        job.mm.map_folio(vma, address, 0, job.mm.memory.zero)
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
    beyond = index >= target.pages()
    cached = target.cached(index)
    if cached is not None:
        mm.files.wait_folio(cached)
    try:
        folio = boundary.get_folio(mm.sched, vma.ops, target, index)
    except Refused:
        beyond = beyond and vma.ops.size_checked_at_entry
        raise Errno(mm.profile.continue_beyond_eof if beyond else errno.EFAULT) from None
    try:
        if folio.flags & folios.HWPOISON:
            raise Errno(errno.EIO)
        mm.memory.hold(folio)
        try:
            if mm.sched.preemptive:
                mm.sched.point("fill.install")
        finally:
            mm.memory.release(folio)
        _install(job, vma, address, folio, 0)
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
        if ops.pool:
            raise Errno(mm.profile.no_huge_page)
        if vma.shared and vma.object is not None and place.index >= vma.object.pages():
            raise Errno(mm.profile.copy_beyond_eof)
        raise Errno(errno.ENOMEM)
    return folio, place, ops


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
        _install(job, vma, address, folio, flags)
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


def _source_first(job: Job, vma: Vma, address: int) -> None:
    """Up to 6.18 the end of the file was looked at after the source had been faulted in."""
    if job.mm.profile.copy_beyond_eof != errno.EFAULT or not vma.shared:
        return
    target = vma.object
    assert target is not None
    beyond = vma.ops.size_checked_at_entry and vma.index(address) >= target.pages()
    if beyond and job.content is None and _peek(job, address - job.dst, 1 << vma.shift) is None:
        raise _SourceMissing


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


def _install(job: Job, vma: Vma, address: int, folio: Folio, flags: int) -> None:
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
        RECORD.notes.append(("fill", job.context, vma, address, found, job))


def _peek(job: Job, done: int, size: int) -> Content | None:
    """The source of one page if it can be read without a fault."""
    source = job.source
    if not isinstance(source, int):
        return _content(bytes(source[done : done + size]), size)
    mm = job.caller
    address = source + done
    if size == PAGE:
        return _peek_page(mm, address)
    pieces: dict[int, bytes] = {}
    for piece in range(size // PAGE):
        content = _peek_page(mm, address + piece * PAGE)
        if content is None:
            return None
        if content:
            pieces[piece] = content
    return pieces


def _peek_page(mm: AddressSpace, address: int) -> bytes | None:
    offset = address % PAGE
    entry, page = entry_at(mm, address)
    if entry is None or not entry[0] & pt.READ:
        return None
    folio = entry[1]
    assert folio is not None
    if not offset:
        if RECORD.on:
            RECORD.reads.add(("data", folio.number))
        content = folio.content
        if type(content) is bytes:
            return content
        assert isinstance(content, dict)
        return content.get((address - page) // PAGE, b"")
    first = folio.read(address - page, PAGE - offset)
    entry, page = entry_at(mm, address - offset + PAGE)
    if entry is None or not entry[0] & pt.READ:
        return None
    assert entry[1] is not None
    return intern(first + entry[1].read(address - offset + PAGE - page, offset))


def _copied_in(task: Task, mm: AddressSpace, address: int, size: int) -> Content:
    """The source of one page, base page by base page, with faults."""
    if size == PAGE:
        return intern(copy_in(task, mm, address, PAGE))
    pieces: dict[int, bytes] = {}
    for piece in range(size // PAGE):
        at = address + piece * PAGE
        content = _peek_page(mm, at)
        if content is None:
            content = intern(copy_in(task, mm, at, PAGE))
        if content:
            pieces[piece] = content
    return pieces


def _content(data: bytes, size: int) -> Content:
    if size == PAGE:
        return intern(data)
    pieces = {}
    for piece in range(-(-len(data) // PAGE)):
        content = intern(data[piece * PAGE : (piece + 1) * PAGE])
        if content:
            pieces[piece] = content
    return pieces
