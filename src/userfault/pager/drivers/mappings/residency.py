"""Which parts of a mapped source can be copied from without waiting for a disk.

UFFDIO_COPY reads its source under the fault path.  If the page is not in the page cache, the
ioctl would wait for the disk, and with it every other fault of this pager.  So a block of the
file is looked at before it is used: resident as a whole, it is copied from; else the pages go to
a reader thread.  cachestat(2) tells in 4 µs a MiB (mincore(2), for older kernels, takes 20).  Pages
are not mapped beforehand: the copy's own faults map 16 at once, which costs less.  Huge pages are
the exception, since the copy would need a second one while it faults.

An answer holds for a while only, as the kernel may evict clean pages; a page evicted within that
while costs one slow fault, never wrong bytes.
"""

from __future__ import annotations

import contextlib

from userfault.kernel.memtypes import BASE_PAGE, round_up
from userfault.linux.libc import cachestat, madvise, mincore, mmap, munmap
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


class Residency:
    """A file source mapped read-only, and which blocks of it are known to be resident.

    The mapping is as long as the memory that it fills (whole pages of `page_size` bytes): what
    lies behind the file are zeros, so that its last huge page needs no copy of its own.
    """

    def __init__(self, source: FileSource, page_size: int) -> None:
        self._base = 0
        self._whole = round_up(source.spec.length, page_size)
        self._file_end = round_up(source.mappable, _PAGE)
        with contextlib.suppress(OSError):  # a file system without mmap: every page is read
            self._base = self._map(source)
        right = source.mappable == source.spec.length
        self.length = (self._whole if right else source.mappable) if self._base else 0
        self._known = bytearray((self.length >> _BLOCK_SHIFT) + 1)
        self._since = 0.0
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
        """Where [offset, offset + length) can be copied from at once, or 0."""
        end = offset + length
        first, last = offset >> _BLOCK_SHIFT, (end - 1) >> _BLOCK_SHIFT
        if end > self.length:
            return 0
        if first == last and self._known[first]:
            return self._base + offset
        for block in range(first, last + 1):
            if not self._known[block] and not self._look(block):
                return self._part(offset, length)
        return self._base + offset

    def forget(self, now: float) -> None:
        """Called now and then with any clock's seconds: old knowledge is dropped."""
        if now - self._since > _VALID_S:
            self._known = bytearray(len(self._known))
            self._since = now

    def close(self) -> None:
        """Unmap the source."""
        if self._base:
            munmap(self._base, self._whole)
            self._base = self.length = 0

    def _look(self, block: int) -> bool:
        start = block << _BLOCK_SHIFT
        if not self._resident(start, min(_BLOCK, self.length - start)):
            return False
        self._known[block] = 1
        return True

    def _part(self, offset: int, length: int) -> int:
        """A block is not resident as a whole; perhaps what is wanted of it is."""
        start = offset // _PAGE * _PAGE
        if self._resident(start, offset + length - start):
            return self._base + offset
        return 0

    def _cached(self, start: int, length: int) -> bool:
        if self._asked >= 0:
            try:
                held = cachestat(self._asked, self._offset + start, length)
            except OSError:  # before 6.5, another's file, hugetlb
                self._asked = -1
            else:
                return held >= -(-length // _PAGE)
        return b"\0" not in mincore(self._base + start, length, _PAGE)

    def _resident(self, start: int, length: int) -> bool:
        address = self._base + start
        in_file = min(length, self._file_end - start)
        try:
            if in_file > 0 and not self._cached(start, in_file):
                return False
            if self._populate:
                madvise(address, length, MADV_POPULATE_READ)
        except OSError:
            return False  # the file shrank, or an old kernel: a reader thread will tell
        return True
