"""The file that takes what the client wrote when more is in memory than may be."""

from __future__ import annotations

import errno
import os


class SpillFile:
    """One mapping's, by its descriptor (-1: there is none).  Pages lie where they are in the
    memory; the file has no name, and goes with its last descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: memoryview) -> None:
        """All of `data`.  Raises OSError: the disk is full, or fails."""
        while data:
            written = os.pwrite(self._fd, data, offset)
            offset, data = offset + written, data[written:]

    def read(self, offset: int, length: int) -> memoryview:
        """What was written there.  Raises OSError."""
        held = bytearray(length)
        left = memoryview(held)
        while left:
            count = os.preadv(self._fd, [left], offset)
            if not count:
                raise OSError(errno.EIO, "the spill file is shorter than it was")
            offset, left = offset + count, left[count:]
        return memoryview(held)

    def close(self) -> None:
        """No more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
