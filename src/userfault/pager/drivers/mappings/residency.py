"""Which parts of a mapped source can be copied from without waiting for a disk.

UFFDIO_COPY reads its source under the fault path.  If the page is not in the page cache, the
ioctl would wait for the disk, and with it every other fault of this pager.  So a block of the
file is looked at before it is used: resident as a whole, it is copied from; else the pages go to
a reader thread.  cachestat(2) tells in 4 µs a MiB (mincore(2), for older kernels, takes 20).  Pages
are not mapped beforehand: the copy's own faults map 16 at once, which costs less.  Huge pages are
the exception, since the copy would need a second one while it faults; and a time in which nobody
waits yet (`ready`).

A few pages of a block that is not resident are read with RWF_NOWAIT, which says in one call whether
they are there, with their bytes.  If they are not, it has had the kernel begin to read them
(preadv2(2); mm/filemap.c, `filemap_get_pages`): by the time that a thread asks for them too, the
disk is at work.  That is left alone while a read of the source lasts longer than a disk takes: of a
device that does not answer, nothing is asked here.

cachestat counts a page that is still being read in as cached; mincore does not.  So where a block
was found without pages once, mincore has the last word.

An answer holds for a while only, as the kernel may evict clean pages; a page evicted within that
while costs one slow fault, never wrong bytes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable

from userfault.kernel.memtypes import BASE_PAGE, KIB, round_up
from userfault.linux.libc import Pinned, cachestat, madvise, mincore, mmap, munmap
from userfault.source.file import FileSource
from userfault.uapi.mman import (
    MADV_POPULATE_READ,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
)

_BLOCK_SHIFT = 20  # 1 MiB: one look takes 4 µs
_BLOCK = 1 << _BLOCK_SHIFT
_PAGE = BASE_PAGE
_VALID_S = 10.0
AT_ONCE = 16 * KIB  # what is read with RWF_NOWAIT at most
_NOT_TO_BE_HAD = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_PATIENCE = 16  # a block that had pages missing is looked at again after so many requests


class Residency:
    """A file source mapped read-only, and which blocks of it are known to be resident.

    The mapping is as long as the memory that it fills (whole pages of `page_size` bytes): what
    lies behind the file are zeros, so that its last huge page needs no copy of its own.
    `prompt`: whether the source answers as a disk does.
    """

    def __init__(self, source: FileSource, page_size: int, prompt: Callable[[], bool]) -> None:
        self._base = 0
        self._whole = round_up(source.spec.length, page_size)
        self._file_end = round_up(source.mappable, _PAGE)
        with contextlib.suppress(OSError):  # a file system without mmap: every page is read
            self._base = self._map(source)
        right = source.mappable == source.spec.length
        self.length = (self._whole if right else source.mappable) if self._base else 0
        blocks = (self.length >> _BLOCK_SHIFT) + 1
        self._known = bytearray(blocks)
        self._missed = bytearray(blocks)  # pages were missing: requests until the next look, and 1
        self._since = 0.0
        self._source = source
        self._prompt = prompt
        self._buffer = bytearray(AT_ONCE)
        self._pinned = Pinned(self._buffer)
        self._view = memoryview(self._buffer)
        self._at_once = page_size == _PAGE  # reads that do not wait are to be had
        self._populate = page_size > _PAGE
        self._asked = source.fileno()  # by cachestat; -1 where that is not to be had
        self._offset = source.spec.offset

    def _map(self, source: FileSource) -> int:
        zeros = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        base = mmap(0, self._whole, PROT_READ, zeros, -1, 0)
        try:
            if self._file_end:
                fixed = MAP_SHARED | MAP_FIXED
                mmap(base, self._file_end, PROT_READ, fixed, source.fileno(), source.spec.offset)
        except OSError:
            munmap(base, self._whole)
            raise
        return base

    def address(self, offset: int, length: int) -> int:
        """Where [offset, offset + length) can be copied from until the next call, or 0."""
        end = offset + length
        first, last = offset >> _BLOCK_SHIFT, (end - 1) >> _BLOCK_SHIFT
        if end > self.length:
            return 0
        if (first == last and self._known[first]) or self._all_there(first, last):
            return self._base + offset
        if length <= AT_ONCE and self._at_once:
            return self._read(offset, length) if self._prompt() else 0
        return self._part(offset, length)

    def mapped(self, offset: int, length: int) -> int:
        """Where it can be copied from as long as the source is mapped, or 0.

        (What `address` tells may be a buffer that the next call reads other pages into.)
        """
        end = offset + length
        if end > self.length:
            return 0
        if self._all_there(offset >> _BLOCK_SHIFT, (end - 1) >> _BLOCK_SHIFT):
            return self._base + offset
        return self._part(offset, length)

    def ready(self, offset: int, length: int) -> None:
        """Map what is in the page cache of it, in blocks that are there as a whole.

        A copy from there takes no faults then.  It takes 55 µs a MiB (measured on 6.18).
        """
        for block in range(offset >> _BLOCK_SHIFT, (offset + length - 1 >> _BLOCK_SHIFT) + 1):
            start = block << _BLOCK_SHIFT
            whole = min(_BLOCK, self.length - start)
            if whole > 0 and self._all_there(block, block):
                with contextlib.suppress(OSError):  # before 5.14; or the file shrank
                    madvise(self._base + start, whole, MADV_POPULATE_READ)

    def forget(self, now: float) -> None:
        """Called now and then with any clock's seconds: old knowledge is dropped."""
        if now - self._since > _VALID_S:
            self._known = bytearray(len(self._known))
            self._missed = bytearray(len(self._missed))
            self._since = now

    def close(self) -> None:
        """Unmap the source."""
        if self._base:
            munmap(self._base, self._whole)
            self._base = self.length = 0
        self._pinned.release()

    def _all_there(self, first: int, last: int) -> bool:
        """Whether these blocks are in the page cache, as a whole."""
        return all(self._known[block] or self._look(block) for block in range(first, last + 1))

    def _look(self, block: int) -> bool:
        if self._missed[block] > 1:
            self._missed[block] -= 1
            return False
        start = block << _BLOCK_SHIFT
        length = min(_BLOCK, self.length - start)
        if not self._resident(start, length, sure=not self._missed[block]):
            self._missed[block] = _PATIENCE
            return False
        self._known[block] = 1
        return True

    def _read(self, offset: int, length: int) -> int:
        """A few pages without waiting for them, or 0: then they may be on their way."""
        try:
            there = self._source.read_now(offset, self._view[:length])
        except OSError as error:
            self._at_once = error.errno not in _NOT_TO_BE_HAD
            return 0  # a thread will tell what else it is
        return self._pinned.address if there else 0

    def _part(self, offset: int, length: int) -> int:
        """A block is not resident as a whole; perhaps what is wanted of it is."""
        start = offset // _PAGE * _PAGE
        if self._resident(start, offset + length - start, sure=False):
            return self._base + offset
        return 0

    def _cached(self, start: int, length: int, *, sure: bool) -> bool:
        """`sure`: no page of it is being read in."""
        if self._asked >= 0:
            try:
                held = cachestat(self._asked, self._offset + start, length)
            except OSError:  # before 6.5, another's file, hugetlb
                self._asked = -1
            else:
                if sure or held < -(-length // _PAGE):
                    return held >= -(-length // _PAGE)
        return b"\0" not in mincore(self._base + start, length, _PAGE)

    def _resident(self, start: int, length: int, *, sure: bool) -> bool:
        address = self._base + start
        in_file = min(length, self._file_end - start)
        try:
            if in_file > 0 and not self._cached(start, in_file, sure=sure):
                return False
            if self._populate:
                madvise(address, length, MADV_POPULATE_READ)
        except OSError:
            return False  # the file shrank, or an old kernel: a reader thread will tell
        return True
