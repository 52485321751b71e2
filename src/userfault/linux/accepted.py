"""Connections that a process had accepted and told nobody of when it was killed.

accept(2) gives a descriptor in one step, and what is done with it comes after.  Where descriptors
are shared (`clone.py`) the connection is still there, and tells by its own address on which socket
it came: an accepted Unix socket has the name of the listening one (unix(7)).
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable


def accepted(fds: Iterable[int], listening: Iterable[int]) -> dict[int, int]:
    """Those of `fds` that came on one of the sockets `listening`, each with that one."""
    names = {name: fd for fd in listening if listens(fd) and (name := _name(fd))}
    found = {fd: names[name] for fd in fds if (name := _name(fd)) in names}
    return {fd: on for fd, on in found.items() if not listens(fd)}


def unix_socket(fd: int) -> socket.socket | None:
    """The Unix socket behind a descriptor, by one of its own; None where it is none."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        held = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    if held.family == socket.AF_UNIX:
        return held
    held.close()
    return None


def listens(fd: int) -> bool:
    """Whether it is a Unix socket on which connections are accepted."""
    held = unix_socket(fd)
    if held is None:
        return False
    with held:
        return bool(held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _name(fd: int) -> str | bytes:
    held = unix_socket(fd)
    if held is None:
        return ""
    with held:
        name: str | bytes = held.getsockname()
        return name
