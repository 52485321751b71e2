"""What was written in a store and is not on its disk yet."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable

from userfault.linux.libc import syncfs

# From here on one syncfs is cheaper than an fsync for each file.
_FSYNC_MOST = 16


class Unsynced:
    """The files below the folder `root` that `flush` is to make durable.  For any thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._above = os.path.dirname(root)
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._many = False  # more than were worth remembering

    def add(self, path: str) -> None:
        """This file was written."""
        with self._lock:
            if self._many:
                return
            self._paths.add(path)
            if len(self._paths) > _FSYNC_MOST:
                self._many = True
                self._paths.clear()

    def flush(self) -> None:
        """Sync a few files and their folders, or with one call many.

        Raises OSError; then the next one syncs everything.
        """
        with self._lock:
            paths, self._paths = self._paths, set()
            many, self._many = self._many, False
        try:
            if many:
                self._sync_everything()
                return
            for path in paths:
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    _sync(path)
            self.sync_names(paths)
        except OSError:
            with self._lock:
                self._many = True
            raise

    def sync_names(self, paths: Iterable[str]) -> None:
        """Make names durable: the folders of `paths`, up to that which holds the root.  OSError."""
        synced = set()
        for path in paths:
            folder = os.path.dirname(path)
            while folder not in synced and len(folder) >= len(self._above):
                synced.add(folder)
                if folder == os.path.dirname(folder):
                    break
                folder = os.path.dirname(folder)
        for folder in synced - {self._above}:
            _sync(folder)
        self._sync_above()

    def _sync_everything(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        self._sync_above()

    def _sync_above(self) -> None:
        """The folder that holds the root: it may be one that we may pass through and not read."""
        with contextlib.suppress(PermissionError):
            _sync(self._above)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
