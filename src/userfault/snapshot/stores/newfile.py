"""A file that appears under its name when it is whole, and not before."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from userfault.kernel.errors import UsageError
from userfault.linux.limits import growing
from userfault.snapshot.errors import StoreError, StoreFull
from userfault.snapshot.stores import folders


class NewFile:
    """A file being written, with no name where the file system can do that (O_TMPFILE).

    `commit` gives it its name, in place of a file that has it, or of a link, which is not followed.
    Left without, nothing is left, and where it had no name not even after SIGKILL.  Its mode is
    0600, memory holds secrets, or `mode`, whatever the umask.  Raises UsageError for a place where
    no file can be, StoreError, StoreFull.
    """

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode
        self._folder, name = os.path.split(path)
        self._folder = self._folder or "."
        self._temporary = os.path.join(self._folder, f".{name}.{os.urandom(4).hex()}")
        self._named = False
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise UsageError(
                    f"cannot write {path}", cause="it is no ordinary file", cure="name another one"
                )
        try:
            self.fd = self._open()
        except OSError as error:
            raise self.failure(error) from None

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._named:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        os.close(self.fd)

    def commit(self) -> None:
        """All is written: let it be durable, then give it its name."""
        try:
            folders.set_mode(self.fd, self._mode)
            os.fsync(self.fd)
            if not self._named:
                self._give_name()
            os.rename(self._temporary, self.path)
            self._named = False
            self._sync_name()
        except OSError as error:
            raise self.failure(error) from None

    def _give_name(self) -> None:
        # Python follows the link in /proc only when it is given a descriptor of a folder.
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = os.path.basename(self._temporary)
            os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=folder, follow_symlinks=True)
            self._named = True
        finally:
            os.close(folder)

    def _sync_name(self) -> None:
        with contextlib.suppress(PermissionError):  # a folder that we may write and not read
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def failure(self, error: OSError) -> StoreError:
        """What an error of the file system means."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(
                f"cannot write {self.path}",
                cause=os.strerror(error.errno),
                cure="free space there, or name a place that has some; nothing was written",
            )
        why = growing(error)
        return StoreError(
            f"cannot write {self.path}",
            cause=why.cause,
            cure=why.cure or "name a place where files can be written",
        )

    def _open(self) -> int:
        try:
            return os.open(self._folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, 0o600)
        self._named = True
        return fd


def write_new(path: str | os.PathLike[str], data: bytes, mode: int = 0o644) -> None:
    """Make the file `path` of `data`, in place of what has the name; as NewFile does."""
    with NewFile(os.fspath(path), mode) as file:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file.fd, left) :]
        except OSError as error:
            raise file.failure(error) from None
        file.commit()
