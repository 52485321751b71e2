"""Files that appear whole or not at all, and what killed writers left behind.

A writer fills a temporary file, which it holds locked (flock), and moves it to its name.  The lock
ends with its writer however that dies, on network file systems too, so that a temporary file whose
lock is free has no writer any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def write(
    folder: str,
    target: str,
    data: bytes | bytearray | memoryview,
    *,
    new: bool = False,
    sync: bool = False,
) -> None:
    """Make the file `target` of `data`, through a temporary file in `folder`.

    Both are on one file system, and their folders exist.  `new`: FileExistsError where there is a
    `target`.  `sync`: the data is on disk before the name is.  Raises OSError; then the temporary
    file is gone and `target` is as it was.
    """
    temporary, fd = _create(folder)
    try:
        try:
            _write_all(fd, memoryview(data).cast("B"))
            if sync:
                os.fsync(fd)
            if new:
                os.link(temporary, target)
            else:
                os.rename(temporary, target)
        finally:
            os.close(fd)  # network file systems report a full disk here
    except BaseException:
        with contextlib.suppress(OSError):  # renamed before closing failed
            os.unlink(temporary)
        raise
    if new:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def sweep(folder: str) -> int:
    """Remove temporary files whose writer is dead; how many."""
    removed = 0
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    for name in names:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):  # gone by now, or in use (BlockingIOError)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                removed += 1
            finally:
                os.close(fd)
    return removed


def _create(folder: str) -> tuple[str, int]:
    """A new file in `folder`, locked."""
    while True:
        path = os.path.join(folder, secrets.token_hex(8))
        fd = os.open(path, _CREATE, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return path, fd
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        os.close(fd)  # a sweep came between creation and lock


def _write_all(fd: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
