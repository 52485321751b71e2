"""Files that appear whole or not at all, and what killed writers left behind.

A writer fills a temporary file, which it holds locked (flock), and moves it to its name.  The lock
ends with its writer however that dies, on network file systems too, so that a temporary file whose
lock is free has no writer any more.

Folders are descriptors (`folders`).  What is swept up is regular files with names that only this
module gives, so that nothing else goes whatever lies beside them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat

from userfault.snapshot.stores import folders

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_LOOK = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_OURS = re.compile(r"userfault-[0-9a-f]{16}\.part")


def write(
    folder: int,
    place: int,
    name: str,
    data: bytes | bytearray | memoryview,
    *,
    mode: int,
    new: bool = False,
    sync: bool = False,
) -> None:
    """Make the file `name` of `data` in `place`, through a temporary file in `folder`.

    Both are on one file system.  `mode`: of the file, whatever the umask.  `new`: FileExistsError
    where there is one.  `sync`: the data is on disk before the name is.  Raises OSError; then the
    temporary file is gone and `name` is as it was.
    """
    temporary, fd = _create(folder)
    try:
        try:
            folders.set_mode(fd, mode)
            _write_all(fd, memoryview(data).cast("B"))
            if sync:
                os.fsync(fd)
            if new:
                _name_new(folder, temporary, place, name)
            else:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=place)
        finally:
            os.close(fd)  # network file systems report a full disk here
    except BaseException:
        with contextlib.suppress(OSError):  # renamed before closing failed
            os.unlink(temporary, dir_fd=folder)
        raise
    if new:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _name_new(folder: int, temporary: str, place: int, name: str) -> None:
    """Give the file its name, or FileExistsError: of several writers one has it.

    FAT and many file systems by FUSE have no hard links.  There the writers lock `folder` (flock),
    and look before they rename: that is as good among those whose locks meet.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=place, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return
    # Opened anew: a lock belongs to an opening, and threads of one process may be two writers.
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folders.has(place, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=place)
    finally:
        os.close(lock)


def is_ours(name: str) -> bool:
    """Whether a name is one that temporary files have."""
    return _OURS.fullmatch(name) is not None


def sweep(folder: int) -> int:
    """Remove temporary files whose writer is dead; how many."""
    removed = 0
    for name in filter(is_ours, os.listdir(folder)):
        with contextlib.suppress(OSError):  # gone by now, or in use (BlockingIOError)
            fd = os.open(name, _LOOK, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    continue
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=folder)
                removed += 1
            finally:
                os.close(fd)
    return removed


def _create(folder: int) -> tuple[str, int]:
    """A new file in `folder`, locked."""
    while True:
        name = f"userfault-{os.urandom(8).hex()}.part"
        fd = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return name, fd
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        os.close(fd)  # a sweep came between creation and lock


def _write_all(fd: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
