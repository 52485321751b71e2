"""Chunks of remote stores on the local disk, shared by every process that names the same folder.

Files are named by digest and verified whenever they are read, so that nothing that happens to the
folder can make wrong bytes: a file that is torn, corrupt or gone is fetched again.  How much is in
it stands in the file `usage`, raised before a file is written and lowered after one is removed;
a process killed in between leaves it too high, never too low, and the next eviction counts anew
while nobody writes.

When the bound is reached, the files unused for the longest time go, until a tenth is free.

It is its user's alone: a folder that belongs to somebody else, or that others may write, is not
used, and neither is one that has other things in it, but for the user's own cache folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator

from userfault.kernel.errors import UsageError, UserfaultError
from userfault.kernel.names import shown
from userfault.linux import homes
from userfault.snapshot.errors import FormatError, NoSuchObject, NotAStore, StoreError
from userfault.snapshot.stores import marks
from userfault.snapshot.stores.cache_folder import CacheFolder
from userfault.snapshot.stores.digests import verify
from userfault.snapshot.stores.keys import CHUNKS, chunk_digest, chunk_key
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.urls import folder_of

DEFAULT_SIZE = 10 << 30

_FREED = 0.1  # of the bound, by one eviction
_QUEUE_BYTES = 16 << 20
_PAUSE_S = 60.0  # after a write failed
_EVICT_WAIT_S = 0.5  # for those who write at the moment
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def open_cache(folder: str | None = None, size: int | None = None) -> ChunkCache | None:
    """The cache in `folder`, of `size` bytes at most.

    By default USERFAULT_CACHE and USERFAULT_CACHE_SIZE say it, else it is `userfault` in the
    user's cache folder (XDG_CACHE_HOME or ~/.cache), of 10 GiB.  None: there is no such folder.
    """
    if folder is None:
        folder = os.environ.get("USERFAULT_CACHE") or user_cache()
    if folder is None:
        return None
    if size is None:
        text = os.environ.get("USERFAULT_CACHE_SIZE")
        size = parse_size(text) if text else DEFAULT_SIZE
    return ChunkCache(folder_of(folder), size)


def user_cache() -> str | None:
    """Where the cache is that nobody named; None where the user has no such folder."""
    home = homes.cache_home()
    return None if home is None else os.path.join(home, homes.OURS)


def parse_size(text: str) -> int:
    """Bytes of "500M", "10G", "10GiB", "1048576"; UsageError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(
            f"{text[:40]!r} is no size",
            cause="a size is a number, and K, M, G or T (powers of 1024)",
            cure="write 500M or 10G",
        )
    return int(found[1]) << _UNITS[found[2].upper()]


class ChunkCache:
    """Chunks in a folder.  Safe for any number of threads and processes."""

    def __init__(self, folder: str, size: int) -> None:
        self._objects = cache_objects(folder)
        self._folder = CacheFolder(self._objects.url)
        self._mine = False  # nobody else's folder, as far as we have looked
        self._size = size
        self._said = False
        self._paused_until = 0.0
        self._wakes = threading.Condition()
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._queued_bytes = 0
        self._writer: threading.Thread | None = None
        self._closing = False

    @property
    def folder(self) -> str:
        """Where it is."""
        return self._objects.url

    def get(self, digest: bytes, length: int) -> bytes | None:
        """A chunk of `length` stored bytes, verified; None where it is not here."""
        return self._verified(digest, self._read(digest, length))

    def at_hand(self, digest: bytes, length: int) -> bytes | None:
        """The same from the page cache alone: it waits for no disk."""
        if not self._is_mine():
            return None
        try:
            data = self._objects.at_hand(chunk_key(digest), length)
        except (StoreError, FormatError):
            return None  # `get` drops it
        return self._verified(digest, data)

    def has(self, digest: bytes) -> bool:
        """Whether there is a file for it."""
        return os.path.exists(self._path(digest))

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep a verified chunk.  Whatever prevents it (a full disk) is said once, and no error."""
        if self.has(digest) or time.monotonic() < self._paused_until or len(data) > self._size:
            return
        try:
            self._objects.make_ready()
            if not self._put(digest, data) and self.evict(len(data)):
                self._put(digest, data)
        except (UserfaultError, OSError) as error:
            self._pause(error)

    def put_later(self, digest: bytes, data: bytes) -> None:
        """`put` in a thread of the cache; what it cannot keep up with is not kept."""
        with self._wakes:
            if self._closing or self._queued_bytes + len(data) > _QUEUE_BYTES:
                return
            self._queue.append((digest, data))
            self._queued_bytes += len(data)
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write, name="userfault-cache", daemon=True
                )
                self._writer.start()
            self._wakes.notify()

    def close(self) -> None:
        """Write what is queued, end the thread."""
        with self._wakes:
            self._closing = True
            self._wakes.notify()
        if self._writer is not None:
            self._writer.join()

    def usage(self) -> int:
        """Bytes that are held, or were about to be written when a process was killed."""
        with self._folder.counting() as usage:
            return usage.get() or 0

    def evict(self, wanted: int) -> bool:
        """Remove the files unused for the longest time until `wanted` more bytes fit.

        False where others are at work here and did not end within a moment.
        """
        with self._folder.locked(fcntl.LOCK_EX, _EVICT_WAIT_S) as alone:
            if not alone:
                return False
            held, cutoff = self._survey(max(self._size - wanted, 0), int(self._size * _FREED))
            freed = self._remove(cutoff) if cutoff is not None else 0
            with self._folder.counting() as usage:
                usage.set(held - freed)
            return held - freed + wanted <= self._size

    def _path(self, digest: bytes) -> str:
        return f"{self.folder}/{chunk_key(digest)}"

    def _is_mine(self) -> bool:
        """Whether there is a folder and it is ours; somebody else's is said to be left alone."""
        if self._mine:
            return True
        try:
            with self._folder.opened():
                self._mine = True
        except FileNotFoundError:
            pass
        except (NotAStore, OSError) as error:
            self._pause(error)
        return self._mine

    def _read(self, digest: bytes, length: int) -> bytes | None:
        if not self._is_mine():
            return None
        try:
            return self._objects.get(chunk_key(digest), most=length)
        except NoSuchObject:
            return None
        except FormatError:
            return b""  # longer than it can be
        except StoreError as error:
            self._pause(error)
            return None

    def _verified(self, digest: bytes, data: bytes | None) -> bytes | None:
        if data is None:
            return None
        try:
            verify(digest, data)
        except FormatError:
            self._drop(digest)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path(digest), follow_symlinks=False)  # used now
        return data

    def _drop(self, digest: bytes) -> None:
        """Remove a file that is corrupt."""
        with (
            contextlib.suppress(OSError, UserfaultError),
            self._folder.locked(fcntl.LOCK_SH) as may,
        ):
            if may:  # else the next reader removes it
                size = os.lstat(self._path(digest)).st_size
                self._objects.delete([chunk_key(digest)])
                with self._folder.counting() as usage:
                    usage.set(max((usage.get() or 0) - size, 0))

    def _put(self, digest: bytes, data: bytes) -> bool:
        """Count a file and write it; False where there is no room, or an eviction goes on."""
        with self._folder.locked(fcntl.LOCK_SH) as may:
            if not may:
                return False
            with self._folder.counting() as usage:
                held = usage.get()
                if held is None or held + len(data) > self._size:
                    return False
                usage.set(held + len(data))
            self._objects.put(chunk_key(digest), data)
            return True

    def _survey(self, goal: int, more: int) -> tuple[int, int | None]:
        """Bytes held, and the time of use up to which files must go to leave `goal` - `more`.

        None where nothing must go.  16 bytes of memory a file.
        """
        times, sizes = array("q"), array("q")
        for _, held in self._files():
            times.append(held.st_mtime_ns)
            sizes.append(held.st_size)
        total = sum(sizes)
        left = total
        if left <= goal:
            return total, None
        cutoff = None
        for index in sorted(range(len(times)), key=times.__getitem__):
            if left <= max(goal - more, 0):
                break
            left -= sizes[index]
            cutoff = times[index]
        return total, cutoff

    def _remove(self, cutoff: int) -> int:
        freed = 0
        for key, held in self._files():
            if held.st_mtime_ns <= cutoff:
                self._objects.delete([key])
                freed += held.st_size
        return freed

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The key of every chunk, and what stat tells of it."""
        for listed in self._objects.list(CHUNKS):
            if chunk_digest(listed.key) is not None:  # else it is none of ours
                with contextlib.suppress(FileNotFoundError):
                    yield listed.key, os.lstat(f"{self.folder}/{listed.key}")

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        self._objects = cache_objects(self.folder)  # if the folder was removed, make it anew
        self._mine = False
        if not self._said:
            self._said = True
            import logging  # noqa: PLC0415  # 3 ms of a start, for what is rare

            logging.getLogger("userfault").warning(
                "going on without the cache in %s: %s", shown(self.folder), error
            )

    def _write(self) -> None:
        """The thread that writes what `put_later` was given."""
        while True:
            with self._wakes:
                while not self._queue and not self._closing:
                    self._wakes.wait()
                if not self._queue:
                    return
                digest, data = self._queue.popleft()
                self._queued_bytes -= len(data)
            self.put(digest, data)


def cache_objects(folder: str) -> LocalObjects:
    """The folder of a cache, for whoever keeps something else there.

    What lies in the user's own cache folder beside the chunks is ours too (agents, kernels)."""
    usual = user_cache()
    existing = usual is not None and os.path.abspath(folder) == usual
    return LocalObjects(folder, into_existing=existing, mark=marks.CACHE)
