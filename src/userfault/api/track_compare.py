"""Seeing what was written where the kernel does not tell: by comparing digests of pages.

It reads all of the memory at each look, through /proc/self/mem: that waits for no userfaultfd (a
page that is missing fails with EIO, measured on 6.18), and no signal comes of a page that cannot be
read.
"""

from __future__ import annotations

import errno
import os

from blake3 import blake3

from userfault.api.track_modes import of_ourselves
from userfault.linux.pagemap import PAGE
from userfault.linux.written import Run, add

_DIGEST = 16
_BLOCK = 64 * PAGE
_NOT_THERE = bytes(_DIGEST)


class Compare:
    """A page counts as written when its bytes are others than at the last look: one that was
    changed and changed back in between does not.  20 bytes of memory a page, a second a GiB."""

    name = "compare"

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self._fd = of_ourselves("mem")
        self._buffer = bytearray(_BLOCK)
        self._digests = bytearray((end - start) // PAGE * _DIGEST)
        self.take()

    def take(self) -> list[Run]:
        """See `Way`."""
        found: list[Run] = []
        known = self._digests
        for at in range(self._start, self._end, _BLOCK):
            for address, digest in self._looked(at, min(_BLOCK, self._end - at)):
                place = (address - self._start) // PAGE * _DIGEST
                if known[place : place + _DIGEST] != digest:
                    known[place : place + _DIGEST] = digest
                    add(found, address, address + PAGE)
        return found

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def forked(self) -> None:
        """It reads the parent's memory."""
        self.close()

    def _looked(self, start: int, length: int) -> list[tuple[int, bytes]]:
        """Address and digest of each page."""
        view = memoryview(self._buffer)
        there = bytearray(b"\1" * (length // PAGE))
        done = 0
        while done < length:
            try:
                done += os.preadv(self._fd, [view[done:length]], start + done)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                there[done // PAGE] = 0
                done = (done // PAGE + 1) * PAGE
        return [
            (start + at, blake3(view[at : at + PAGE]).digest(_DIGEST) if there[at // PAGE]
             else _NOT_THERE)
            for at in range(0, length, PAGE)
        ]  # fmt: skip
