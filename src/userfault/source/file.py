"""Reading a file or memfd as a source: mapped for speed, read where a read may have to wait.

A file that changes size or modification time while it is served is an error: part of the memory
would come from the old file and part from the new one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat

from userfault.kernel.errors import SourceError
from userfault.source.spec import FileSpec

_PAGE = mmap.PAGESIZE


class FileSource:
    """An open file as a source; takes the descriptor over.

    `view`: the file mapped read-only, from its first byte to the end of the last page (the tail
    of which reads zero, mmap(2)); None where it cannot be mapped.
    """

    def __init__(self, spec: FileSpec, fd: int) -> None:
        self.spec = spec
        self._fd = fd
        self.view: mmap.mmap | None = None
        with contextlib.suppress(OSError, ValueError):  # a file system without mmap: pages are read
            self.view = mmap.mmap(fd, spec.length, mmap.MAP_SHARED, mmap.PROT_READ,
                                  offset=spec.offset)  # fmt: skip

    @property
    def mapped_bytes(self) -> int:
        """How many bytes of `view` can be touched: whole pages."""
        return -(-self.spec.length // _PAGE) * _PAGE if self.view is not None else 0

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from `offset`, zeros beyond the end of the source.  May block."""
        answer = bytearray(length)
        wanted = min(length, self.spec.length - offset)
        view = memoryview(answer)
        done = 0
        try:
            while done < wanted:
                count = os.preadv(self._fd, [view[done:wanted]], self.spec.offset + offset + done)
                if not count:
                    raise self._error(offset + done, "the file ends before its recorded length")
                done += count
        except OSError as error:
            raise self._error(offset + done, os.strerror(error.errno or 0)) from None
        return answer

    def changed(self) -> str:
        """What changed since the source was handed over; empty when nothing did."""
        held = os.fstat(self._fd)
        if stat.S_ISBLK(held.st_mode):
            return ""
        if held.st_size != self.spec.size:
            return f"the file {self.spec.name} changed size, {self.spec.size} to {held.st_size}"
        if held.st_mtime_ns != self.spec.mtime_ns:
            return f"the file {self.spec.name} was modified while it was served"
        return ""

    def close(self) -> None:
        """Unmap and close."""
        if self.view is not None:
            self.view.close()
        os.close(self._fd)

    def _error(self, offset: int, cause: str) -> SourceError:
        return SourceError(
            f"cannot read {self.spec.name} at offset {self.spec.offset + offset}",
            offset=offset,
            cause=cause,
            cure="restore from an intact copy",
        )
