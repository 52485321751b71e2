"""Pages that have come and nobody has taken yet, in a memfd; what was taken takes no room."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pyroaring import BitMap

from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.linux import libc
from userfault.linux.refused import cause_of, cure_of
from userfault.uapi.mman import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE


class Staging:
    """`have`: pages that came and are current, taken or not.  Not thread-safe.

    Raises MemoryUnavailable where there is no room for them.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.have = BitMap()
        self._here = BitMap()  # of these, those that nobody has taken
        with _room():
            self._fd = os.memfd_create("userfault-staging", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, pages * PAGE)

    def put(self, first: int, count: int, data: memoryview) -> None:
        """Pages, in place of what may be there."""
        done = 0
        with _room():
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], first * PAGE + done)
        self._came(first, count)

    def zero(self, first: int, count: int) -> None:
        """Pages of zeros."""
        self._punch(first, count)
        self._came(first, count)

    def drop(self, first: int, count: int) -> None:
        """They are not current any more."""
        self._punch(first, count)
        self.have.remove_range(first, first + count)
        self._here.remove_range(first, first + count)

    def lacks(self, first: int, count: int) -> BitMap:
        """Which of them are not here."""
        return BitMap(range(first, first + count)) - self._here

    def take(self, first: int, count: int) -> bytes:
        """Pages that are here; they go with it.  Asked for again, they have to come again."""
        data = bytearray(count * PAGE)
        view, done = memoryview(data), 0
        while done < len(data):
            done += os.preadv(self._fd, [view[done:]], first * PAGE + done)
        self._punch(first, count)
        self._here.remove_range(first, first + count)
        return bytes(data)

    def close(self) -> None:
        """Let go of them."""
        os.close(self._fd)

    def _came(self, first: int, count: int) -> None:
        self.have.add_range(first, first + count)
        self._here.add_range(first, first + count)

    def _punch(self, first: int, count: int) -> None:
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        with _room():
            libc.fallocate(self._fd, mode, first * PAGE, count * PAGE)


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """What the kernel refuses is no connection that is lost, which would be taken up again."""
    try:
        yield
    except OSError as error:
        raise MemoryUnavailable(
            "pages that came cannot be kept", cause=cause_of(error), cure=cure_of(error)
        ) from None
