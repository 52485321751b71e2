"""One call of a fill operation, and the source of a COPY, page by page."""

from __future__ import annotations

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.files.folio import Content, intern
from userfault.model.mm import pgtable as pt
from userfault.model.mm.access import copy_in, entry_at
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd.context import Context

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
        "remembered",
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
        self.remembered: tuple[object, ...] = ()  # what Linux keeps of it (see `remembered`)
        self.content: Content | None = None  # of the next page, when it had to be faulted in


def identity(vma: Vma, address: int) -> tuple[object, ...]:
    """What must not have changed while the locks were dropped."""
    at = vma.index(address) if vma.object is not None else 0
    return vma.modes, vma.shared, vma.ops, vma.object, at


def remembered(vma: Vma) -> tuple[object, ...]:
    """What Linux compares of that, since 7.1 (`mfill_retry_state_changed()`).

    Of a file the page at the start of the mapping (`vm_pgoff`), not the one to be filled; of
    hugetlb, which has a loop of its own, nothing (both measured on 7.2.13 and 7.3.4).
    """
    if vma.ops.pool:
        return ()
    return identity(vma, vma.start)


class SourceMissing(Exception):  # noqa: N818  # not an error: the slow path
    """The source of this page cannot be read without a fault."""


def peek(job: Job, done: int, size: int) -> Content | None:
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


def copied_in(task: Task, mm: AddressSpace, address: int, size: int) -> Content:
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
