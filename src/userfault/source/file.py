"""Reading a file or memfd as a source, and noticing that it changed.

A file that changes size or modification time while it is served is an error: part of the memory
would come from the old file and part from the new one.
"""

from __future__ import annotations

import mmap
import os
import stat

from userfault.kernel.errors import SourceError
from userfault.source.spec import FileSpec


class FileSource:
    """An open file as a source; takes the descriptor over."""

    def __init__(self, spec: FileSpec, fd: int) -> None:
        self.spec = spec
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, for whoever maps the file."""
        return self._fd

    @property
    def mappable(self) -> int:
        """How many bytes a mapping of the file shows right: to the end, or whole pages.

        Behind the end of a file its last page reads zero (mmap(2)); behind the end of a source that
        takes a part of a file there is the rest of it.
        """
        spec = self.spec
        if spec.offset + spec.length == spec.size:
            return spec.length
        return spec.length // mmap.PAGESIZE * mmap.PAGESIZE

    def read(
        self, offset: int, length: int, *, urgent: bool = True, waited: float = 0.0
    ) -> bytes | bytearray:
        """`length` bytes from `offset`, zeros beyond the end of the source.  May block.

        Mostly one pread(2) into memory that nobody has filled with zeros before.  Then the file is
        looked at: a pager's loop sees what this machine knows of it, which this brings up to date.
        """
        del urgent, waited  # the kernel reads ahead by itself, and nothing bounds its reads
        wanted = min(length, self.spec.length - offset)
        done = 0
        try:
            found = os.pread(self._fd, wanted, self.spec.offset + offset)
            cause = self.changed()
            if cause:
                raise self._error(offset, cause)
            if len(found) == length:
                return found
            done = len(found)
            answer = bytearray(length)
            answer[:done] = found
            view = memoryview(answer)
            while done < wanted:
                count = os.preadv(self._fd, [view[done:wanted]], self.spec.offset + offset + done)
                if not count:
                    cause = self.changed() or "the file ends before its recorded length"
                    raise self._error(offset + done, cause)
                done += count
        except OSError as error:
            raise self._error(offset + done, os.strerror(error.errno or 0)) from None
        return answer

    def read_now(self, offset: int, into: memoryview) -> bool:
        """Fill `into` from `offset` on if the bytes are in the page cache, zeros beyond the end.

        If they are not, the kernel has begun to read them (RWF_NOWAIT; mm/filemap.c,
        `filemap_get_pages`).  Raises OSError where that cannot be asked: EOPNOTSUPP of a file
        system, and whatever pread(2) raises.
        """
        spec = self.spec
        wanted = min(len(into), spec.length - offset)
        try:
            found = os.preadv(self._fd, [into[:wanted]], spec.offset + offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        if found < wanted:
            return False
        if wanted < len(into):
            into[wanted:] = bytes(len(into) - wanted)
        return True

    def changed(self) -> str:
        """What changed since the source was handed over; empty when nothing did.

        May block: of a file on a network file system its server is asked.
        """
        held = os.fstat(self._fd)
        return self.differs(held.st_mode, held.st_size, held.st_mtime_ns)

    def differs(self, mode: int, size: int, mtime_ns: int) -> str:
        """The same of what somebody else has found out."""
        if stat.S_ISBLK(mode):
            return ""
        if size != self.spec.size:
            return f"the file {self.spec.name} changed size, {self.spec.size} to {size}"
        if mtime_ns != self.spec.mtime_ns:
            return f"the file {self.spec.name} was modified while it was served"
        return ""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _error(self, offset: int, cause: str) -> SourceError:
        return SourceError(
            f"cannot read {self.spec.name}",  # the cause is the same for each page that it costs
            offset=offset,
            cause=cause,
            cure="restore from an intact copy",
        )
