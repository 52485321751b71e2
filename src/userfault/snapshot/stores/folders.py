"""Folders by descriptor: links are followed to the folder that the user named, and not below it.

What is written or removed in a store or a cache is named by a descriptor of the folder that it lies
in, and every folder on the way was opened with O_NOFOLLOW.  So whoever may write there cannot, by a
link, let us write or remove anything anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# FAT, and others by FUSE: who mounted it says who may read it.
_NO_MODES = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


@contextlib.contextmanager
def named(path: str) -> Iterator[int]:
    """The folder that the user named, by whatever links.  Raises OSError."""
    fd = os.open(path, _FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def below(root: int, path: str, *, make: int | None = None) -> Iterator[int]:
    """The folder `path` below `root`, parts joined by `/`; with `make` made, of this mode.

    Raises OSError; a part that is a link is ELOOP, another thing that is no folder ENOTDIR.
    """
    fd = os.dup(root)
    try:
        for part in path.split("/") if path else ():
            if make is not None:
                _make(fd, part, make)
            last, fd = fd, _into(fd, part)
            os.close(last)
        yield fd
    finally:
        os.close(fd)


def make_durably(path: str, mode: int) -> None:
    """Make a folder, and those above it that are missing; their names are on disk then.

    Raises OSError: FileExistsError where something else has the name.
    """
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        make_durably(above, 0o755)
    try:
        os.mkdir(path, mode)
    except FileExistsError:  # somebody else was first
        if not os.path.isdir(path):
            raise
        return
    fd = os.open(path, _FLAGS | os.O_NOFOLLOW)
    try:
        set_mode(fd, mode)
    finally:
        os.close(fd)
    with named(above) as fd:
        os.fsync(fd)


def set_mode(fd: int, mode: int) -> None:
    """Give what we made a mode, whatever the umask, where the file system has modes.  OSError."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def has(folder: int, name: str) -> bool:
    """Whether anything has this name in a folder, a link without target too."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make(folder: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return
    fd = _into(folder, name)
    try:
        set_mode(fd, mode)
    finally:
        os.close(fd)


def _into(folder: int, name: str) -> int:
    try:
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:
        # Linux says so of links too, where a folder was asked for.
        if _is_link(folder, name):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
