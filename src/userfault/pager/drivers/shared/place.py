"""Where a user's keeper is found: a socket in a folder that nobody else can enter.

The folder is the proof of who may ask: no other user comes to the socket, and what is mounted
elsewhere (a container with its own /run and /tmp) has a keeper of its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from userfault.kernel.errors import Unavailable

VARIABLE = "USERFAULT_RUNTIME_DIR"
_OURS = "userfault"
SOCKET, LOCK = "keeper", "keeper.lock"


@contextlib.contextmanager
def folder(*, make: bool = True) -> Iterator[int]:
    """A descriptor of the folder, which is made if there is none (or is -1, without `make`).

    `USERFAULT_RUNTIME_DIR`, else `userfault` in `XDG_RUNTIME_DIR`, else `/run/userfault` for root,
    else `/tmp/userfault-UID`.  Raises Unavailable where no folder is this user's alone.
    """
    why = ""
    for path in _candidates():
        try:
            fd = _opened(path, make=make)
        except FileNotFoundError:
            if not make:
                yield -1
                return
            raise
        except OSError as error:
            why = why or f"{path}: {os.strerror(error.errno or 0)}"
            continue
        if fd < 0:
            why = why or f"{path}: others may enter it, or it is another user's"
            continue
        try:
            yield fd
        finally:
            os.close(fd)
        return
    raise Unavailable(
        "no folder for the keeper of shared copies",
        cause=why or "none is known",
        cure=f"name one of your own, of mode 0700, in {VARIABLE}",
    )


def path_in(folder: int, name: str) -> str:
    """A path to what is in a folder, short enough for a socket (108 bytes, unix(7))."""
    return f"/proc/self/fd/{folder}/{name}"


def _candidates() -> list[str]:
    told = os.environ.get(VARIABLE, "")
    if told:
        return [told]
    found = []
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(session):
        found.append(os.path.join(session, _OURS))
    user = os.geteuid()
    return [*found, f"/tmp/{_OURS}-{user}" if user else f"/run/{_OURS}"]


def _opened(path: str, *, make: bool) -> int:
    """A descriptor of the folder; -1 where others may enter it.  Raises OSError."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    held = os.fstat(fd)
    if held.st_uid == os.geteuid() and not held.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fd
    os.close(fd)
    return -1
