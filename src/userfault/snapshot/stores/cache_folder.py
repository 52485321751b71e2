"""The folder of a cache: whose it is, how much is in it, and who may write while others evict."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from userfault.snapshot.errors import NotAStore
from userfault.snapshot.stores import folders

_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Usage:
    """The number in an open file: bytes that the cache holds."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def get(self) -> int | None:
        """None for a new file, and for one that was torn: then files count."""
        text = os.pread(self._fd, 32, 0)
        return int(text) if text.strip().isdigit() else None

    def set(self, number: int) -> None:
        """Write it."""
        os.pwrite(self._fd, b"%-31d\n" % number, 0)


class CacheFolder:
    """The folder `path`.  Safe for any number of threads and processes.

    Each method raises NotAStore where others may have put something there, and OSError.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of it."""
        with folders.named(self.path) as fd:
            held = os.fstat(fd)
            if held.st_uid != os.geteuid() or held.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                others = f"user {held.st_uid}, whose it is," if held.st_uid else "others than you"
                raise NotAStore(
                    f"{self.path} is not used as a cache",
                    cause=f"{others} may write there",
                    cure="name a folder of your own (USERFAULT_CACHE), or chmod go-w this one",
                )
            yield fd

    @contextlib.contextmanager
    def counting(self) -> Iterator[Usage]:
        """`usage`, locked.  Opened each time: a lock belongs to an opening, and forks share it."""
        fd = self._file("usage")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield Usage(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def locked(self, kind: int, seconds: float = 0) -> Iterator[bool]:
        """Writers share a lock, an eviction has it alone: files and count do not differ then.

        Yields whether it was had within `seconds`.
        """
        end = time.monotonic() + seconds
        fd = self._file("evicting")
        try:
            had = _try_lock(fd, kind)
            while not had and time.monotonic() < end:
                time.sleep(0.002)
                had = _try_lock(fd, kind)
            yield had
        finally:
            os.close(fd)

    def _file(self, name: str) -> int:
        """A file of the cache's own, open; made if there is none."""
        with self.opened() as folder:
            fd = os.open(name, _FILE, 0o600, dir_fd=folder)
            held = os.fstat(fd)
            if stat.S_ISREG(held.st_mode) and held.st_uid == os.geteuid() and held.st_nlink == 1:
                return fd
            os.close(fd)
            raise NotAStore(
                f"{self.path} is not used as a cache",
                cause=f"its file {name!r} has other names too, or is not yours",
                cure=f"remove {self.path}/{name}",
            )


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
