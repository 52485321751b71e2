"""The image that both sides serve: a file in the page cache, or a memfd that is the memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

from bench.native import Native
from userfault.linux.libc import Pinned

PAGE = mmap.PAGESIZE


class Image:
    """An open file of `pages` pages, painted so that no two words are alike, all of it cached."""

    def __init__(self, fd: int, pages: int, native: Native, seed: int) -> None:
        self.fd = fd
        self.pages = pages
        self.length = pages * PAGE
        os.ftruncate(fd, self.length)
        with mmap.mmap(fd, self.length) as view, Pinned(view) as pinned:
            native.paint(pinned.address, self.length, seed)
            self.hash = native.hash(pinned.address, self.length)
        # Written back before anything is timed: no disk works beside us, and the time of
        # modification stays what it is.
        os.fsync(fd)

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
        os.close(self.fd)
