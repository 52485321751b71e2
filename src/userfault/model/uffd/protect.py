"""UFFDIO_WRITEPROTECT and UFFDIO_RWPROTECT."""

from __future__ import annotations

import errno

from userfault.model.errors import Errno
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.change_protection import set_rwp, set_wp
from userfault.model.mm.vma import Vma
from userfault.model.uffd.context import Context


class _Locked:
    """The address space with its lock held for reading; EAGAIN while an event is pending."""

    __slots__ = ("_context", "_mm", "_using")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mm = context.mm

    def __enter__(self) -> AddressSpace:
        context, mm = self._context, self._mm
        self._using = context.space()
        self._using.__enter__()
        mm.lock.read()
        if mm.vma_locks:
            context.map_changing.read_at_once()
        if context.is_changing:
            self.__exit__()
            raise Errno(errno.EAGAIN)
        return mm

    def __exit__(self, *exc: object) -> None:
        mm = self._mm
        if mm.vma_locks:
            self._context.map_changing.read_done()
        mm.lock.read_done()
        self._using.__exit__(*exc)


def _demand(vma: Vma, mode: int, start: int, length: int) -> None:
    """The mapping is registered in `mode`, and the range is of whole pages of it."""
    if not vma.modes & mode:
        raise Errno(errno.ENOENT)
    if (start | length) & ((1 << vma.shift) - 1):
        raise Errno(errno.EINVAL)


def writeprotect(context: Context, start: int, length: int, *, protect: bool) -> None:
    """UFFDIO_WRITEPROTECT, mapping by mapping: those before a bad one stay changed."""
    end = start + length
    with _Locked(context) as mm:
        found = mm.overlapping(start, end)
        if not found:
            raise Errno(errno.ENOENT)
        whole = found[0].start <= start and found[0].end >= end
        if not whole and not mm.profile.wp_many_mappings:
            raise Errno(errno.ENOENT)
        for vma in found:
            _demand(vma, vmas.WP, start, length)
            set_wp(mm, vma, max(start, vma.start), min(end, vma.end), protect=protect)


def rwprotect(context: Context, start: int, length: int, *, protect: bool) -> None:
    """UFFDIO_RWPROTECT (7.3): everything is checked before anything changes."""
    end = start + length
    with _Locked(context) as mm:
        found = mm.overlapping(start, end)
        if not found:
            raise Errno(errno.ENOENT)
        for vma in found:
            _demand(vma, vmas.RWP, start, length)
        for vma in found:
            set_rwp(mm, vma, max(start, vma.start), min(end, vma.end), protect=protect)
