"""A store in a folder: one file an object, no server, safe for any number of processes.

Files are written in `tmp/` and moved to their names, so that a writer killed at any moment leaves
at most a temporary file, which the next writer's first put removes.  Nothing is written or removed
but in a folder that is marked as a store (`marks`), and through no link below it (`folders`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from userfault.kernel.errors import UsageError
from userfault.linux.limits import growing
from userfault.snapshot.errors import (
    AlreadyThere,
    FormatError,
    NoSuchObject,
    StoreError,
    StoreFull,
)
from userfault.snapshot.stores import atomic, folders, marks
from userfault.snapshot.stores.objects import (
    Listed,
    check_key,
    check_prefix,
    check_size,
    checked_keys,
)
from userfault.snapshot.stores.unsynced import Unsynced

_T = TypeVar("_T")

_TMP = "tmp"
_PART = re.compile(r"[A-Za-z0-9._-]+")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalObjects:
    """A folder as a store.  It holds no descriptor open, so there is nothing to close.

    The first put makes it, if there is no such folder or an empty one; with `into_existing` also
    where a folder has other things in it, which are left alone.  Else it is NotAStore.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        into_existing: bool = False,
        mark: marks.Mark = marks.STORE,
    ) -> None:
        if not os.fspath(folder):
            raise UsageError("a store has an empty path", cure="name a folder, or . for this one")
        self._root = os.path.abspath(folder)  # a later chdir moves nothing
        self._mark = mark
        self._into_existing = into_existing
        self._ready = False
        self._modes = (0o600, 0o700)  # of files, of folders
        self._unsynced = Unsynced(self._root)

    @property
    def url(self) -> str:
        """The folder's absolute path."""
        return self._root

    def get(self, key: str, *, most: int | None = None) -> bytes:
        """See `Objects`."""
        return self._read_by(_read, key, most)

    def at_hand(self, key: str, most: int) -> bytes | None:
        """The object if it is wholly in the page cache; None where a disk would be waited for.

        preadv2(2) with RWF_NOWAIT; the inode may still have to be read, once a file.  Raises as
        `get` does.
        """
        return self._read_by(_read_nowait, key, most)

    def will_need(self, key: str) -> None:
        """Start reading the object into the page cache (posix_fadvise(2)); `get` tells errors."""
        check_key(key)
        with contextlib.suppress(OSError, FormatError):
            fd, _ = self._open(key)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(fd)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        """See `Objects`."""
        check_key(key)
        above, _, name = key.rpartition("/")
        try:
            self.make_ready()
            of_file, of_folder = self._modes
            with (
                folders.named(self._root) as root,
                folders.below(root, _TMP, make=of_folder) as temporary,
                folders.below(root, above, make=of_folder) as folder,
            ):
                # Replacing syncs first: a crash must find the old bytes or the new ones.
                sync = new or folders.has(folder, name)
                atomic.write(temporary, folder, name, data, mode=of_file, new=new, sync=sync)
            if new:
                self._unsynced.sync_names([self._path(key)])
            else:
                self._unsynced.add(self._path(key))
        except FileExistsError:
            raise AlreadyThere(key, url=self.url) from None
        except OSError as error:
            raise self._put_failed(key, error) from None

    def make_ready(self) -> None:
        """Before the first put: it is a store, and nothing is left of killed writers.

        Raises NotAStore, and OSError.
        """
        if self._ready:
            return
        # Memory images hold keys and passwords: a new store is its owner's alone.
        with contextlib.suppress(FileExistsError):
            folders.make_durably(self._root, 0o700)
        with folders.named(self._root) as root:
            marks.claim(root, self._root, self._mark, into_existing=self._into_existing)
            self._modes = _modes(os.fstat(root))
            with folders.below(root, _TMP, make=self._modes[1]) as temporary:
                atomic.sweep(temporary)
        self._ready = True

    def is_store(self) -> bool:
        """Whether anything was ever put here.  Raises StoreError."""
        try:
            with folders.named(self._root) as root:
                return marks.is_one(root, self._mark)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(
                f"cannot look into {self.url}",
                cause=os.strerror(error.errno or 0),
                cure="check the folder and its permissions",
            ) from None

    def exists(self, key: str) -> bool:
        """See `Objects`."""
        try:
            self.size(key)
        except NoSuchObject:
            return False
        return True

    def size(self, key: str) -> int:
        """See `Objects`."""
        check_key(key)
        try:
            return os.stat(self._path(key)).st_size
        except OSError as error:
            raise self._read_failed(key, error) from None

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """See `Objects`; what is in `tmp/` is no object."""
        check_prefix(prefix)
        try:
            yield from self._walk(prefix)
        except OSError as error:
            raise StoreError(
                f"cannot list the store {self.url}",
                cause=os.strerror(error.errno or 0),
                cure="check the folder and its permissions",
            ) from None

    def delete(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        wanted = checked_keys(keys)
        try:
            with folders.named(self._root) as root:
                if self._ready or marks.is_one(root, self._mark):
                    for key in wanted:
                        self._delete(root, key)
        except (FileNotFoundError, NotADirectoryError):
            return  # there is no such store
        except OSError as error:
            raise self._delete_failed("anything", error) from None

    def _delete(self, root: int, key: str) -> None:
        above, _, name = key.rpartition("/")
        try:
            with folders.below(root, above) as folder:
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._delete_failed(repr(key), error) from None

    def flush(self) -> None:
        """See `Objects`."""
        try:
            self._unsynced.flush()
        except OSError as error:
            raise self._put_failed("what was written", error) from None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _open(self, key: str) -> tuple[int, int]:
        """A descriptor and the length of an object; a pipe or device in its place is refused."""
        check_key(key)
        fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        held = os.fstat(fd)
        if stat.S_ISREG(held.st_mode):
            return fd, held.st_size
        os.close(fd)
        raise FormatError(
            f"{key!r} in {self.url} is no regular file",
            cause="something else was put in its place",
            cure="remove it and store the object again",
        )

    def _read_by(self, read: Callable[[int, int], _T], key: str, most: int | None) -> _T:
        """What `read` makes of an object's descriptor and length.  In the path of a fault."""
        try:
            fd, size = self._open(key)
            try:
                check_size(key, size, most)
                return read(fd, size)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._read_failed(key, error) from None

    def _read_failed(self, key: str, error: OSError) -> StoreError:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            cause = "" if os.path.isdir(self._root) else "there is no such folder"
            return NoSuchObject(key, url=self.url, cause=cause)
        return StoreError(
            f"cannot read {key!r} in {self.url}",
            cause=os.strerror(error.errno or 0),
            cure="check the folder, its permissions and its disk",
        )

    def _walk(self, prefix: str) -> Iterator[Listed]:
        try:
            entries = os.scandir(f"{self._root}/{prefix}")
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                key = prefix + entry.name
                if not _PART.fullmatch(entry.name) or key in (_TMP, self._mark.name):
                    continue  # no object
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(key + "/")
                    continue
                with contextlib.suppress(FileNotFoundError):  # deleted while we look
                    held = entry.stat()
                    if stat.S_ISREG(held.st_mode):
                        yield Listed(key, held.st_size, held.st_mtime)

    def _delete_failed(self, what: str, error: OSError) -> StoreError:
        return StoreError(
            f"cannot remove {what} from {self.url}",
            cause=_why(error),
            cure="check the permissions of the store",
        )

    def _put_failed(self, what: str, error: OSError) -> StoreError:
        kind = StoreFull if error.errno in _FULL else StoreError
        full = kind is StoreFull
        return kind(
            f"cannot store {what} in {self.url}",
            cause=_why(error),
            cure="free space there; what was stored before is intact"
            if full
            else growing(error).cure or "check the folder, its permissions and its disk",
        )


def _modes(root: os.stat_result) -> tuple[int, int]:
    """Of files and folders in a store, whatever the umask: who may enter its folder may read it."""
    if root.st_uid != os.geteuid():  # its owner lets in whom he likes, and wants to read it himself
        return 0o644, 0o755
    mode = stat.S_IMODE(root.st_mode)
    return 0o600 | (mode & 0o044), 0o700 | (mode & 0o2775)


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"{error.filename!r} is a symbolic link, and nothing is changed through links"
    return growing(error).cause


def _read(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    if len(data) == size:
        return data
    parts = [data]  # read(2) gives at most 2 GiB at once
    while parts[-1]:
        parts.append(os.read(fd, size))
    return b"".join(parts)


def _read_nowait(fd: int, size: int) -> bytes | None:
    answer = bytearray(size)
    try:
        count = os.preadv(fd, [answer], 0, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return None
        raise
    return bytes(answer) if count == size else None
