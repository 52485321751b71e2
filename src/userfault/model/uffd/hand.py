"""What a type that runs an operation itself is given, and how one that is written well does it.

Two of the proposals have the type do all of it.  What it is handed then is a `Hand`: with it goes
the mapping, and through that the page table and everything else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn

from userfault.model.errors import Errno, Refused
from userfault.model.files.folio import HWPOISON, UPTODATE, Content, Folio
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import pgtable as pt
from userfault.model.mm.cow import where
from userfault.model.mm.vma import Vma
from userfault.model.uffd import pages
from userfault.model.uffd.source import Job, SourceMissing, peek


class Hand:
    """One page of one call: where it goes, and the core's helpers."""

    __slots__ = ("address", "job", "mm", "operation", "place", "vma")

    def __init__(self, job: Job, vma: Vma, address: int, operation: str) -> None:
        self.job = job
        self.vma = vma
        self.address = address
        self.operation = operation
        self.mm = job.mm
        self.place = where(job.mm, vma, address, shared=vma.shared)
        self.place.look()

    def content(self) -> Content:
        """What the page is to hold.  Raises SourceMissing: free all, it is called again."""
        if self.operation == pages.ZEROPAGE.name:
            return {} if self.vma.ops.pool else b""
        found = self.job.content
        if found is None:
            found = peek(self.job, self.address - self.job.dst, 1 << self.vma.shift)
        if found is None:
            raise SourceMissing
        return found

    def install(self, folio: Folio, flags: int = 0) -> None:
        """mfill_atomic_install_pte().  The folio is locked if it is in the page cache."""
        mm = self.mm
        if mm.sched.preemptive:
            mm.memory.hold(folio)
            mm.sched.point("fill.install")
            mm.memory.release(folio)
        pages.install(self.job, self.vma, self.address, folio, flags)

    def unlock(self, folio: Folio) -> None:
        """folio_unlock(): who waits for it looks again."""
        self.mm.files.unlock_folio(folio)

    def no_folio(self) -> NoReturn:
        """There is no new page: say why, as the core would."""
        pages.refuse(self.job, self.vma, self.place)


Run = Callable[[Hand], None]


def handed(operation: str, run: Run) -> Callable[[Job, Vma, int], None]:
    """A type's function as the loop calls it.  There is nothing between the two."""

    def call(job: Job, vma: Vma, address: int) -> None:
        run(Hand(job, vma, address, operation))

    return call


def through(ops: MemoryOps) -> Run:
    """COPY and ZEROPAGE of one page by these functions, written well."""

    def run(hand: Hand) -> None:
        own = ops if hand.vma.shared else ops.for_private
        if hand.operation == pages.COPY.name:
            pages.check_before(hand.job, hand.vma, hand.address)
        elif not hand.vma.shared and ops.zero_page:
            pages.map_zero(hand.job, hand.vma, hand.address)
            return
        folio = None if own.uffd.alloc_folio is None else own.uffd.alloc_folio(hand.place)
        if folio is None:
            hand.no_folio()
        try:
            folio.content = hand.content()
            folio.flags |= UPTODATE
            _publish(hand, own, folio)
        except BaseException:
            if own.undo_alloc is not None:
                own.undo_alloc(hand.place, folio)
            hand.mm.memory.put(folio)
            raise

    return run


def _publish(hand: Hand, own: MemoryOps, folio: Folio) -> None:
    if not hand.vma.shared:
        hand.install(folio, pt.EXCLUSIVE)
        return
    target = hand.place.object
    assert target is not None
    assert own.uffd.filemap_add is not None
    assert own.uffd.filemap_remove is not None
    own.uffd.filemap_add(folio, hand.place)
    try:
        hand.install(folio)
    except BaseException:
        own.uffd.filemap_remove(folio, target)
        hand.unlock(folio)  # whoever came for its lock looks again
        raise
    hand.unlock(folio)


def cont(ops: MemoryOps) -> Run:
    """CONTINUE of one page by the type's lookup, written well."""

    def run(hand: Hand) -> None:
        target = hand.vma.object
        find = ops.uffd.get_folio_noalloc
        assert target is not None
        assert find is not None
        nothing = pages.find_cached(hand.mm, hand.vma, target, hand.place.index)
        try:
            folio = find(target, hand.place.index)
        except Refused:
            raise Errno(nothing) from None
        folio.record_taken()
        try:
            if folio.flags & HWPOISON:
                raise Errno(errno.EIO)
            hand.install(folio)
        except BaseException:
            hand.unlock(folio)
            hand.mm.memory.put(folio)
            raise
        hand.unlock(folio)

    return run


def poison(hand: Hand) -> None:
    """POISON of one page: the generic function."""
    pages.poison(hand.job, hand.vma, hand.address)
