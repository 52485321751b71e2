"""What happens to a file under its mappings: holes, truncation, allocation, reads and writes."""

from __future__ import annotations

import errno

from userfault.model.errors import Errno, Refused
from userfault.model.files import boundary
from userfault.model.files import folio as folios
from userfault.model.files.folio import Folio, Object
from userfault.model.files.inode import Inode
from userfault.model.files.pagecache import PageCache
from userfault.model.tasks.recorder import RECORD
from userfault.uapi import mman


def punch(files: PageCache, target: Inode, offset: int, length: int) -> None:
    """Free whole pages in the range and zero the rest; private copies stay.  No event."""
    step = 1 << target.shift
    first = -(-offset // step)
    last = (offset + length) // step
    end = offset + length
    if not last and target.kind.small_hole_unmaps_all:
        _unmap(target, first, 1 << 52, private_too=False)
    if first > last or (offset % step and first == last + 1):
        _zero_part(target, offset, end)
        return
    if offset % step:
        _zero_part(target, offset, min(end, first * step))
    if end % step and last >= first:
        _zero_part(target, max(offset, last * step), end)
    for hook in files.guests:
        hook(target, first, last)
    _unmap(target, first, last, private_too=target.kind.punch_takes_copies)
    _drop(files, target, first, last)


_NO_END = 1 << 40  # a page that no mapping reaches


def truncate(files: PageCache, target: Inode, size: int) -> None:
    """Set the size; what lies beyond goes, private copies too."""
    target.cut += 1
    try:
        _cut(files, target, size)
    finally:
        target.cut -= 1
        if RECORD.on:
            RECORD.notes.append(("cut", target))


def _cut(files: PageCache, target: Inode, size: int) -> None:
    old = target.pages()
    target.changed()
    target.size = size
    keep = target.pages()
    if keep < old and files.sched.preemptive:
        files.sched.point("truncate.unmap")
    if target.kind.truncate_drops_markers:
        # Whatever the size was: everything behind the new one, markers too (measured on 6.18).
        _unmap(target, keep, _NO_END, private_too=True, drop_markers=True)
    if keep < old:
        for hook in files.guests:
            hook(target, keep, old)
        _unmap(target, keep, old, private_too=True)
        _drop(files, target, keep, old)
    if size % (1 << target.shift):
        _zero_part(target, size, keep << target.shift)


def _zero_part(target: Object, start: int, end: int) -> None:
    if start >= end:
        return
    step = 1 << target.shift
    folio = target.cached(start // step)
    if folio is not None:
        folio.write(start % step, bytes(end - start))


def _unmap(
    target: Inode, first: int, last: int, *, private_too: bool, drop_markers: bool = False
) -> None:
    """Take pages [first, last) out of every mapping; uffd-wp stays as a marker."""
    if RECORD.on:
        RECORD.reads.add(("mappings", target.number))
    for vma in list(target.mappings):
        start = max(vma.start, vma.address_of(first))
        end = min(vma.end, vma.address_of(last))
        if start >= end:
            continue
        if target.kind.punch_drops_wp:
            vma.unmap_present(start, end)
        else:
            vma.zap(start, end, drop_markers=drop_markers, private_too=private_too)


def _drop(files: PageCache, target: Inode, first: int, last: int) -> None:
    """Out of the cache, each under its lock; then unmapped once more, for who came between."""
    for index in target.indexes(first, last):
        folio = target.cached(index)
        if folio is None:
            continue
        folio.get()
        files.memory.hold(folio)
        files.lock_folio(folio)
        files.memory.release(folio)
        if folio.object is target and folio.index == index:
            for hook in files.guests:
                hook(target, index, index + 1)
            _unmap(target, index, index + 1, private_too=False)
            files.unlock_folio(folio)
            files.drop_cached(target, folio)
        else:
            files.unlock_folio(folio)
        files.memory.put(folio)


def fallocate(files: PageCache, target: Inode, mode: int, offset: int, length: int) -> None:
    """fallocate(2): allocation and PUNCH_HOLE.  Raises Errno."""
    _check_fallocate(target, mode, offset, length)
    step = 1 << target.shift
    if mode & mman.FALLOC_FL_PUNCH_HOLE:
        punch(files, target, offset, length)
        return
    end = offset + length
    target.changed()
    old = target.size
    if end > old and not mode & mman.FALLOC_FL_KEEP_SIZE:
        if target.seals & mman.F_SEAL_GROW:
            raise Errno(errno.EPERM)
        target.size = end
    hook = target.kind.preallocate
    if hook is None:
        raise Errno(errno.EOPNOTSUPP)
    for index in range(offset // step, -(-end // step)):
        if index >= target.pages():
            break
        try:
            folio = hook(files.where(target, index))
        except Refused as refusal:
            target.changed()
            target.size = old
            raise Errno(refusal.code) from None
        target.cached(index)
        files.unlock_folio(folio)
        files.memory.put(folio)


def _check_fallocate(target: Inode, mode: int, offset: int, length: int) -> None:
    keep = mode & mman.FALLOC_FL_KEEP_SIZE
    hole = mode & mman.FALLOC_FL_PUNCH_HOLE
    known = mman.FALLOC_FL_KEEP_SIZE | mman.FALLOC_FL_PUNCH_HOLE
    if mode & ~known or (hole and not keep):
        raise Errno(errno.EOPNOTSUPP)
    if offset < 0 or length <= 0:
        raise Errno(errno.EINVAL)
    if not target.kind.can_resize:
        if not keep:
            raise Errno(errno.EOPNOTSUPP)
        step = 1 << target.shift
        if offset % step or length % step or (not hole and offset + length > target.size):
            raise Errno(errno.EINVAL)
    if hole and target.seals & (mman.F_SEAL_WRITE | mman.F_SEAL_FUTURE_WRITE):
        raise Errno(errno.EPERM)


def read(target: Object, offset: int, length: int) -> bytes:
    """Bytes of the file; holes and what nobody has written read as zeros."""
    target.pages()
    length = max(min(length, target.size - offset), 0)
    step = 1 << target.shift
    parts = []
    while length:
        at = offset % step
        take = min(step - at, length)
        folio = target.cached(offset // step)
        if folio is not None:
            folio.flags &= ~folios.SWAPPED
        finished = folio is not None and folio.flags & folios.UPTODATE
        parts.append(folio.read(at, take) if folio is not None and finished else bytes(take))
        offset += take
        length -= take
    return b"".join(parts)


def write(files: PageCache, target: Inode, offset: int, data: bytes) -> int:
    """write(2) into the page cache; seen by every mapping at once."""
    if not target.kind.can_write:
        raise Errno(errno.EINVAL)
    if target.seals & (mman.F_SEAL_WRITE | mman.F_SEAL_FUTURE_WRITE):
        raise Errno(errno.EPERM)
    return write_through(files, target, offset, data)


def write_through(files: PageCache, target: Inode, offset: int, data: bytes) -> int:
    """Write as through a mapping of the file: also where write(2) is not possible."""
    step = 1 << target.shift
    end = offset + len(data)
    if end > target.size and target.seals & mman.F_SEAL_GROW:
        raise Errno(errno.EPERM)
    done = 0
    while done < len(data):
        at = (offset + done) % step
        take = min(step - at, len(data) - done)
        index = (offset + done) // step
        if offset + done + take > target.size:
            target.changed()
        target.pages()
        before = target.size
        target.size = max(target.size, offset + done + take)
        try:
            folio = _for_write(files, target, index)
        except Refused as refusal:
            target.changed()
            target.size = before
            if done:
                return done
            raise Errno(refusal.code) from None
        folio.write(at, data[done : done + take])
        files.unlock_folio(folio)
        files.memory.put(folio)
        done += take
    return done


def _for_write(files: PageCache, target: Inode, index: int) -> Folio:
    cached = target.cached(index)
    if cached is not None:
        files.wait_folio(cached)
    return boundary.fault_folio(files.sched, target.kind, files.where(target, index))
