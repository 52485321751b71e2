"""The image that both sides serve: a file in the page cache, or a memfd that is the memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

from bench.native import Native
from userfault.linux.libc import Pinned, madvise, mincore
from userfault.uapi import mman

PAGE = mmap.PAGESIZE
_TRIES = 4


class NotColdError(Exception):
    """Pages of an image stay in the page cache: figures would not be those of the disk."""


class NotCachedError(Exception):
    """Pages of an image have left the page cache: figures would be those of the disk."""


class Image:
    """An open file of `pages` pages, all of it cached.  `seed`: painted so that no two words are
    alike; without one it is what it is.

    It stays mapped here, with every page in our page table: a machine that drops cached pages
    which nobody maps (by DAMON, for one) would have the disk take part in what is measured.
    """

    def __init__(self, fd: int, pages: int, native: Native, seed: int | None) -> None:
        self.fd = fd
        self.pages = pages
        self.length = pages * PAGE
        if seed is None:
            self._view = mmap.mmap(fd, self.length, prot=mmap.PROT_READ)
            self._pinned = Pinned(self._view)
        else:
            os.ftruncate(fd, self.length)
            self._view = mmap.mmap(fd, self.length)
            self._pinned = Pinned(self._view)
            native.paint(self._pinned.address, self.length, seed)
            # Written back before anything is timed: no disk works beside us, and the time of
            # modification stays what it is.
            os.fsync(fd)
        self.hash = native.hash(self._pinned.address, self.length)

    def ensure_cached(self) -> None:
        """Read in again what has left the page cache; NotCachedError if it does not stay."""
        for _ in range(_TRIES):
            if mincore(self._pinned.address, self.length).count(1) == self.pages:
                return
            madvise(self._pinned.address, self.length, mman.MADV_POPULATE_READ)
        raise NotCachedError(f"pages of {self.pages} leave the page cache as fast as they come")

    @classmethod
    def of(cls, fd: int, native: Native) -> Image:
        """The whole pages of an open file, which is taken over."""
        return cls(fd, os.fstat(fd).st_size // PAGE, native, None)

    @classmethod
    def file(cls, directory: Path, pages: int, native: Native) -> Image:
        """A file without a name, on the file system of `directory`."""
        fd, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
        return cls(fd, pages, native, pages)

    @classmethod
    def memfd(cls, pages: int, native: Native) -> Image:
        """Shared memory whose page cache holds every page."""
        return cls(os.memfd_create("bench-image", os.MFD_CLOEXEC), pages, native, pages + 1)

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pinned.release()
        self._view.close()
        os.close(self.fd)


class ColdImage:
    """A file of `pages` pages that nobody maps, so that it can be made to leave the page cache."""

    def __init__(self, directory: Path, pages: int, native: Native) -> None:
        with Image.file(directory, pages, native) as image:
            self.fd = os.dup(image.fd)
            self.hash = image.hash
        self.pages = pages
        self.length = pages * PAGE

    def drop(self) -> None:
        """No page of it is in the page cache any more.  NotColdError where that cannot be had."""
        for _ in range(_TRIES):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not self._cached():
                return
            with contextlib.suppress(OSError):  # for root alone
                Path("/proc/sys/vm/drop_caches").write_text("1")
        raise NotColdError(f"{self._cached()} of {self.pages} pages stay in the page cache")

    def _cached(self) -> int:
        with (
            mmap.mmap(self.fd, self.length, prot=mmap.PROT_READ) as view,
            Pinned(view) as pinned,
        ):
            return mincore(pinned.address, self.length).count(1)

    def __enter__(self) -> ColdImage:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)
