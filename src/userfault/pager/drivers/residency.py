"""Which parts of a mapped source can be copied from without waiting for a disk.

UFFDIO_COPY reads its source under the fault path.  If the page is not in the page cache, the
ioctl would wait for the disk, and with it every other fault of this pager.  So a block of the
file is looked at before it is used: resident as a whole, it is mapped at once (MADV_POPULATE_READ,
5.14), which also spares the copy its own page faults; else the pages go to a reader thread.

Looking takes some 45 µs a MiB, a fifth of what copying takes.  When everything is to be filled, a
thread (the scout) looks ahead; ctypes releases the GIL, so it runs beside the copies.

An answer holds for a while only, as the kernel may evict clean pages; a page evicted within that
while costs one slow fault, never wrong bytes.
"""

from __future__ import annotations

import _thread
import contextlib

from userfault.kernel.memtypes import BASE_PAGE, round_up
from userfault.linux.libc import madvise, mincore, mmap, munmap
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

_BLOCK_SHIFT = 20  # 1 MiB: one mincore and one populate take about 20 µs
_BLOCK = 1 << _BLOCK_SHIFT
_PAGE = BASE_PAGE
_VALID_S = 10.0
# Idle pagers look at so much of a source and no more: each MiB mapped is page tables and RSS.
_AHEAD_BLOCKS = 512
_SCOUT_HOME_S = 5.0  # a file system that died holds the scout: then the mapping stays


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
        self._ahead = 0  # blocks before it were looked at in idle time
        self._scouted = self._closing = False
        self._scouting = _thread.allocate_lock()  # held while the scout runs

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

    def look_ahead(self) -> bool:
        """Look at one more block while nothing else is to be done; False when that is enough."""
        if self._ahead >= min(len(self._known), _AHEAD_BLOCKS):
            return False
        self._look_once(self._ahead)
        self._ahead += 1
        return True

    def scout(self) -> None:
        """Start a thread that looks at every block, once."""
        if not self._scouted and self.length > _BLOCK:
            self._scouted = True
            self._scouting.acquire()
            _thread.start_new_thread(self._scout, ())

    def _scout(self) -> None:
        try:
            for block in range(len(self._known)):
                if self._closing:
                    return
                self._look_once(block)
        finally:
            self._scouting.release()

    def _look_once(self, block: int) -> None:
        if block << _BLOCK_SHIFT < self.length and not self._known[block]:
            self._look(block)

    def forget(self, now: float) -> None:
        """Called now and then with any clock's seconds: old knowledge is dropped."""
        if now - self._since > _VALID_S:
            self._known = bytearray(len(self._known))
            self._since = now

    def close(self) -> None:
        """Unmap the source, once the scout has come home."""
        self._closing = True
        if self._base and self._scouting.acquire(timeout=_SCOUT_HOME_S):
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

    def _resident(self, start: int, length: int) -> bool:
        address = self._base + start
        in_file = min(length, self._file_end - start)
        try:
            if in_file > 0 and b"\0" in mincore(address, in_file, _PAGE):
                return False
            madvise(address, length, MADV_POPULATE_READ)
        except OSError:
            return False  # the file shrank, or an old kernel: a reader thread will tell
        return True
