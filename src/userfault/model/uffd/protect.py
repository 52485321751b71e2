"""UFFDIO_WRITEPROTECT and UFFDIO_RWPROTECT."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from userfault.model.errors import Errno
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.change_protection import set_rwp, set_wp
from userfault.model.mm.vma import Vma
from userfault.model.uffd.context import Context


@contextlib.contextmanager
def _locked(context: Context) -> Iterator[AddressSpace]:
    """The address space with its lock held for reading; EAGAIN while an event is pending."""
    with context.space() as mm:
        mm.lock.read()
        if mm.vma_locks:
            context.map_changing.read_at_once()
        try:
            if context.is_changing:
                raise Errno(errno.EAGAIN)
            yield mm
        finally:
            if mm.vma_locks:
                context.map_changing.read_done()
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
        if not whole and not mm.profile.wp_many_mappings:
            raise Errno(errno.ENOENT)
        for vma in found:
            _demand(vma, vmas.WP, start, length)
            set_wp(mm, vma, max(start, vma.start), min(end, vma.end), protect=protect)


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
