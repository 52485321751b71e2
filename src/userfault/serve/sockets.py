"""Listening sockets, made so that nobody else can come between, and others' are left alone.

A path that is there already is taken over only if it is a socket on which nobody listens.  Two
daemons that try at once are kept apart by a lock on the folder (flock(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from typing import NamedTuple

from userfault.kernel.errors import UsageError
from userfault.kernel.names import shown

_LONGEST = 107  # bytes of a path: sun_path of unix(7), with its end
_BACKLOG = 1024


class Bound(NamedTuple):
    """A listening socket, and device and inode of its path."""

    fd: int
    place: tuple[int, int]


def listening(
    path: str, *, group: int | None = None, kind: int = socket.SOCK_STREAM, told: bool = False
) -> Bound:
    """A listening socket at `path`: for its owner alone, or with `group` for that too.

    `told`: who sends what by a connection is told with it (SO_PASSCRED, which accept(2) hands on).
    Raises UsageError where there is no place for it.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise UsageError(
            f"{shown(path)} is no path for a socket",
            cause=f"it has more than {_LONGEST} bytes (unix(7))",
            cure="name a shorter one",
        )
    try:
        with _locked(os.path.dirname(path) or "."):
            _make_room(path)
            bound = _bound(path, group, kind)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {shown(path)}",
            cause=os.strerror(error.errno or 0),
            cure="name a folder that is there and may be written to",
        ) from None
    if told:
        with socket.socket(fileno=os.dup(bound.fd)) as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return bound


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = os.fstat(held).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UsageError(
                f"cannot listen in {shown(folder)}",
                cause="anybody may put another socket in its place there",
                cure=f"chmod o-w {shown(folder)}, or name another folder",
            )
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _make_room(path: str) -> None:
    """Nothing is there, or it is a socket that was left behind."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(
            f"cannot listen at {shown(path)}",
            cause="something that is no socket is there",
            cure="name another path, or remove it",
        )
    if _somebody_listens(path):
        raise UsageError(
            f"cannot listen at {shown(path)}",
            cause="somebody listens there already",
            cure="name another path, or end that program; a daemon of ours hands over to a new one"
            " with --replace",
        )
    os.unlink(path)


def _somebody_listens(path: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as asking:
            asking.setblocking(False)
            try:
                asking.connect(path)
            except BlockingIOError:  # its queue is full
                return True
            except ConnectionRefusedError:
                return False
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
                continue
            return True
    return True  # of another kind, which is not ours


def _bound(path: str, group: int | None, kind: int) -> Bound:
    with socket.socket(socket.AF_UNIX, kind) as made:
        before = os.umask(0o177)  # from its first moment on
        try:
            made.bind(path)
        finally:
            os.umask(before)
        try:
            if group is not None:
                os.chown(path, -1, group)
                os.chmod(path, 0o660)
            made.listen(_BACKLOG)
        except OSError:
            os.unlink(path)
            raise
        return Bound(made.detach(), _place(path))


def unlink(path: str, place: tuple[int, int]) -> None:
    """Take a socket of ours away; not the one that somebody has put there since."""
    with contextlib.suppress(OSError, UsageError), _locked(os.path.dirname(path) or "."):
        if _place(path) == place:
            os.unlink(path)


def _place(path: str) -> tuple[int, int]:
    held = os.lstat(path)
    return held.st_dev, held.st_ino
