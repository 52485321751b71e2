"""SysV shared memory: the segments by their ids."""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno
from userfault.model.files.inode import Inode
from userfault.model.files.ops import FileOps
from userfault.model.files.pagecache import PageCache

SHM_HUGETLB = 0o4000
_HUGE_SHIFT = 26


class Segments:
    """The segments of one machine: each keeps its file until it is removed."""

    def __init__(self, files: PageCache, small: FileOps, huge: FileOps) -> None:
        self._files = files
        self._small = small
        self._huge = huge
        self._by_id: dict[int, Inode] = {}
        self._last = 0  # id given away: none is given twice

    def get(self, length: int, flags: int) -> int:
        """shmget(2) with IPC_PRIVATE: a new id."""
        if not length:
            raise Errno(errno.EINVAL)
        if flags & SHM_HUGETLB:
            target = self._of_huge_pages(length, (flags >> _HUGE_SHIFT & 0x3F) or 21)
        else:
            target = self._files.create(self._small, round_up(length, PAGE))
        self._last += 1
        self._by_id[self._last] = target
        return self._last

    def _of_huge_pages(self, length: int, shift: int) -> Inode:
        memory = self._files.memory
        if shift not in memory.pools:
            raise Errno(errno.EINVAL)
        size = round_up(length, 1 << shift)
        target = self._files.create(self._huge, size, shift=shift)
        # Unlike a memfd, a segment is promised its pages when it is made.
        reserve = target.kind.reserve
        if reserve is not None and not reserve(memory, target, None, 0, size >> shift):
            self._files.unlink(target)
            raise Errno(errno.ENOMEM)
        return target

    def find(self, number: int) -> Inode:
        """The segment; EINVAL."""
        target = self._by_id.get(number)
        if target is None:
            raise Errno(errno.EINVAL)
        return target

    def remove(self, number: int) -> None:
        """shmctl(IPC_RMID): the segment goes with its last attachment."""
        target = self.find(number)
        del self._by_id[number]
        self._files.unlink(target)
