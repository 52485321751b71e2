"""What a daemon's workers know of one another: memory that all of them map.

Each cell is written by one of them.  It is a matter of who takes the next client, and nothing is
lost where a number is a little old; but for `moving`, which tells a successor what its worker was
about to pass on when it was killed.
"""

from __future__ import annotations

import mmap
import os

_CELL = 8
_MASK = (1 << 64) - 1


class Board:
    """That of worker `place` of `count`.  `fd`: the memory; -1 where there is one worker alone."""

    def __init__(self, fd: int, place: int, count: int) -> None:
        held = mmap.mmap(fd, size(count)) if fd >= 0 else bytearray(size(count))
        self._cells = memoryview(held).cast("Q")
        self.place = place
        self.count = count
        self._moving = count
        self._sent = 3 * count
        self._got = 3 * count + count * count
        for other in range(count):  # what a worker before this one took and did not note
            self._cells[self._got + place * count + other] = self._sent_to(other, place)

    def clients(self, number: int) -> None:
        """So many are this worker's."""
        self._cells[self.place] = number

    def sent(self, place: int) -> None:
        """One was passed on to that worker."""
        self._add(self._sent + self.place * self.count + place)

    def got(self, place: int) -> None:
        """One came from that worker."""
        self._add(self._got + self.place * self.count + place)

    def load(self, place: int) -> int:
        """How many clients a worker has, with those that are on their way to it."""
        coming = 0
        for other in range(self.count):
            got = self._cells[self._got + place * self.count + other]
            coming += max(self._sent_to(other, place) - got, 0)
        return self._cells[place] + coming

    def all_clients(self) -> int:
        """Of all workers."""
        return sum(self._cells[: self.count])

    def begin_to_move(self, place: int, inode: int) -> None:
        """The connection with that inode is passed on, and is not ours whatever happens now."""
        at = self._moving + 2 * self.place
        self._cells[at + 1] = inode & _MASK
        self._cells[at] = place + 1

    def moved(self) -> None:
        """It is, and closed here."""
        self._cells[self._moving + 2 * self.place] = 0

    @property
    def moving(self) -> tuple[int, int] | None:
        """To which worker, and the connection's inode, if one was killed in the middle of it."""
        place, inode = self._cells[self._moving + 2 * self.place :][:2]
        return (place - 1, inode) if 0 < place <= self.count else None

    def _sent_to(self, whose: int, place: int) -> int:
        return self._cells[self._sent + whose * self.count + place]

    def _add(self, at: int) -> None:
        self._cells[at] = (self._cells[at] + 1) & _MASK


def size(count: int) -> int:
    """Bytes that it takes for so many workers."""
    return _CELL * (3 * count + 2 * count * count)


def made(count: int) -> int:
    """The memory for so many, as a descriptor of the caller's.  Raises OSError."""
    fd = os.memfd_create("userfault-board", os.MFD_CLOEXEC)
    os.ftruncate(fd, size(count))
    return fd
