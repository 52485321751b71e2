"""Opening what a name names, without waiting for anybody.

open(2) of a FIFO waits until somebody writes to it, of a terminal for its line, and to open a
device may do something (a tape rewinds, a watchdog starts).  So what is there is looked at first.
"""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
_KINDS = {
    stat.S_IFDIR: (errno.EISDIR, "a folder"),
    stat.S_IFIFO: (errno.ESPIPE, "a pipe or FIFO"),
    stat.S_IFSOCK: (errno.ESPIPE, "a socket"),
    stat.S_IFCHR: (errno.ESPIPE, "a character device"),
}


class NoFileError(OSError):
    """What was named cannot be read at an offset; `strerror` says what it is."""


def open_file(path: str | bytes | os.PathLike[str]) -> int:
    """A descriptor, for reading, of the regular file or block device at `path`.

    Raises NoFileError for anything else, OSError, ValueError for what cannot be a name (NUL in
    it, or characters that the file system's encoding does not have).
    """
    mode = os.stat(path).st_mode
    check(mode)
    if stat.S_ISBLK(mode):  # O_NONBLOCK would open a drive without a medium
        return os.open(path, _FLAGS)
    try:
        fd = os.open(path, _FLAGS | os.O_NONBLOCK)  # it may have become a FIFO meanwhile
    except BlockingIOError:  # somebody has a lease on the file (fcntl(2)), and is asked for it
        fd = os.open(path, _FLAGS)
    try:
        check(os.fstat(fd).st_mode)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check(mode: int) -> None:
    """Raise NoFileError unless `mode` is that of a regular file or block device."""
    kind = stat.S_IFMT(mode)
    if kind not in (stat.S_IFREG, stat.S_IFBLK):
        code, what = _KINDS.get(kind, (errno.ESPIPE, "no file at all"))
        raise NoFileError(code, f"it is {what}, which cannot be read at an offset")
