"""A copy of a snapshot that is shared: which of its pages are in, and how others get in.

The copy is a memfd.  A page gets into it by UFFDIO_COPY through the *filler*, a userfaultfd over
the keeper's own mapping: the kernel makes the page, fills it and only then puts it into the page
cache, so nobody ever meets half a page; and who is second meets EEXIST and can change nothing.
Beside it lies one byte a page, the *marks*: set once the page is known to be right.

A page in the cache alone says little.  Whoever can read the memfd can bring an empty page into it,
by touching a hole of a mapping that nobody has registered.  So a page without a mark is looked at:
with the snapshot's bytes it gets its mark, with others it stays without one for ever, and is
copied to each memory that wants it, as if nothing was shared.

Nothing here has to be undone.  Who is killed between page and mark leaves a page without a mark,
and two who fill the same page at once bring the same bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.memtypes import BASE_PAGE
from userfault.uapi import userfaultfd as abi

MARK = b"\1"
_UNMARKED = b"\0"
_FIRST_HOLE = 1 << 16  # pages looked at once for the end of a run

Ioctl = Callable[[int, int, memoryview], object]


class Marks(Protocol):
    """One byte a page, shared by everybody who fills the copy."""

    def __len__(self) -> int: ...
    def __getitem__(self, at: slice, /) -> bytes | bytearray: ...
    def __setitem__(self, at: slice, value: bytes, /) -> None: ...


class SharedCopy:
    """The copy behind one mapping, whose pages are of 4 KiB.

    `filler`: the userfaultfd by which it is filled, at `address` of the keeper's address space.
    `ioctl`: that system call; it raises OSError.  `same`: whether a page of it is what lies at
    an address of this process.  `usable`: it can still be filled; once the keeper has ended it is
    not, and what is in it stays.
    """

    def __init__(
        self,
        filler: int,
        address: int,
        marks: Marks,
        ioctl: Ioctl,
        same: Callable[[int, int], bool],
    ) -> None:
        self._filler = filler
        self._address = address
        self._marks = marks
        self._ioctl = ioctl
        self._same = same
        self._argument = memoryview(bytearray(abi.uffdio_copy.size))
        self.usable = True
        self.published = 0  # pages that were put there through this

    def run(self, page: int, count: int) -> int:
        """How many pages from `page` on, `count` at most, are in the copy; below zero: how many are
        not."""
        held = self._marks[page : page + min(count, _FIRST_HOLE)]
        if held[:1] == MARK:
            return len(held) - len(held.lstrip(MARK))
        return len(held.lstrip(_UNMARKED)) - len(held)

    def lacks(self, page: int, count: int) -> bool:
        """Whether any of these pages is not in the copy."""
        return _UNMARKED in self._marks[page : page + count]

    def forsake(self) -> None:
        """It is not what its marks say: from now on nothing is taken from it, nor put there."""
        self.usable = False
        self._marks = bytearray(len(self._marks))

    def publish(self, page: int, count: int, source: int) -> tuple[int, bool]:
        """Put pages that are not in the copy there, from the bytes at address `source`.

        How many of them, from the first, are in the copy now (True), or are to be had from `source`
        only (False): at least one.
        """
        if not self.usable:
            return count, False
        try:
            done = self._copy(page, count, source)
        except OSError as error:
            done = self._done()
            if not done:
                return self._refused(error.errno or 0, page, count, source)
        self._mark(page, done)
        self.published += done
        return done, True

    def _copy(self, page: int, count: int, source: int) -> int:
        start = self._address + page * BASE_PAGE
        abi.uffdio_copy.struct.pack_into(self._argument, 0, start, source, count * BASE_PAGE, 0, 0)
        self._ioctl(self._filler, abi.UFFDIO_COPY, self._argument)
        return count

    def _done(self) -> int:
        """Pages that the kernel filled before it stopped."""
        return max(int(abi.uffdio_copy.struct.unpack(self._argument)[4]), 0) // BASE_PAGE

    def _refused(self, code: int, page: int, count: int, source: int) -> tuple[int, bool]:
        if code == errno.EEXIST:
            if self._same(page, source):
                self._mark(page, 1)
                return 1, True
            return 1, False
        if code == errno.ESRCH:
            self.usable = False
        return count, False  # no memory there: whoever wants the page pays for it

    def _mark(self, page: int, count: int) -> None:
        self._marks[page : page + count] = MARK * count
