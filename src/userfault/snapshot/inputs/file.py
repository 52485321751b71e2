"""Raw memory files, sparse or not: the memory of a QEMU guest, a memfd, a block device.

A hole of the file is a hole of the image (lseek(2): SEEK_DATA, SEEK_HOLE).  What does not know
holes (hugetlbfs, some network file systems) says that all of it is data; the packer finds the
zeros.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from userfault.kernel.errors import SourceError, UsageError
from userfault.kernel.names import shown
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run
from userfault.source.opening import NoFileError, open_file


class FileInput:
    """A file, from its first byte to its last.

    `kind` and `about` are kept in the manifest.  `holes`: what a hole of the file means.  Raises
    UsageError where it is no file or block device, or cannot be opened.
    """

    regions: Sequence[Region] = ()
    warnings: Sequence[str] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str = "raw",
        about: Mapping[str, str] | None = None,
        holes: Holds = Holds.HOLE,
    ) -> None:
        self.kind = kind
        self._path = os.fspath(path)
        self._about = {"file": os.path.basename(self._path), **(about or {})}
        self._holes = holes
        self._fd = _opened(self._path)
        self._buffer = Buffer()
        try:
            self._mode = os.fstat(self._fd).st_mode
            self.length = os.lseek(self._fd, 0, os.SEEK_END)
            self._state = self._look()
        except BaseException:
            self.close()
            raise

    def runs(self) -> Iterator[Run]:
        """Data and holes; a page that is partly data is data."""
        page, last = 0, -(-self.length // PAGE)
        while page < last:
            first, end = self._data_after(page, last)
            if first > page:
                yield Run(page, first - page, self._holes)
            if end > first:
                yield Run(first, end - first, Holds.DATA)
            page = end

    def _data_after(self, page: int, last: int) -> tuple[int, int]:
        """The pages of the next data from `page` on; twice `last` where there is none."""
        try:
            start = os.lseek(self._fd, page * PAGE, os.SEEK_DATA)
            end = os.lseek(self._fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return last, last
            if error.errno == errno.EINVAL:  # it does not know holes
                return page, last
            raise
        return max(page, start // PAGE), min(last, -(-end // PAGE))

    def read(self, page: int, count: int) -> memoryview:
        """The bytes, zeros behind the end of the file."""
        size = count * PAGE
        view = self._buffer.pages(count)
        wanted = min(size, self.length - page * PAGE)
        done = 0
        while done < wanted:
            try:
                got = os.preadv(self._fd, [view[done:wanted]], page * PAGE + done)
            except OSError as error:
                raise self._error(os.strerror(error.errno or 0), page * PAGE + done) from None
            if not got:
                raise self._error("it ends before the length that it had", page * PAGE + done)
            done += got
        view[wanted:] = bytes(size - wanted)
        return view

    def finish(self) -> Mapping[str, str]:
        """The name of the file.  Raises SourceError where it has changed since it was opened."""
        if self._look() != self._state:
            raise SourceError(
                f"{self._path} changed while it was packed",
                cause="its size or its time of modification is another one",
                cure="pause what writes to it (a guest, a dump under way), and pack again",
            )
        return self._about

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _look(self) -> tuple[int, int]:
        state = os.fstat(self._fd)
        # The time of a device node says nothing about the device.
        return (0, 0) if stat.S_ISBLK(self._mode) else (state.st_size, state.st_mtime_ns)

    def _error(self, cause: str, offset: int) -> SourceError:
        return SourceError(
            f"cannot read {self._path} at offset {offset}",
            offset=offset,
            cause=cause,
            cure="pack an intact copy",
        )


def _opened(path: str) -> int:
    try:
        return open_file(path)
    except NoFileError as error:
        raise UsageError(
            f"cannot pack {shown(path)}",
            cause=error.strerror or "",
            cure="write the image to a file first",
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot open {shown(path)}",
            cause=error.strerror or "" if isinstance(error, OSError) else str(error),
            cure="name an image that is there and may be read",
        ) from None
