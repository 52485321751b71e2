"""Connections that a process had accepted and told nobody of when it was killed.

accept(2) gives a descriptor in one step, and what is done with it comes after.  Where descriptors
are shared (`clone.py`) the connection is still there, and tells by its own address on which socket
it came: an accepted Unix socket has the name of the listening one (unix(7)).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable


def accepted(fds: Iterable[int], listening: Iterable[int]) -> dict[int, int]:
    """Those of `fds` that came on one of the sockets `listening`, each with that one."""
    names = {}
    for fd in listening:
        name, listens = _socket(fd)
        if name and listens:
            names[name] = fd
    found = {}
    for fd in fds:
        name, listens = _socket(fd)
        if name in names and not listens:
            found[fd] = names[name]
    return found


def _socket(fd: int) -> tuple[str | bytes, bool]:
    """The name of a Unix socket, and whether it listens; nothing for any other descriptor."""
    try:
        held = socket.socket(fileno=os.dup(fd))
    except OSError:
        return "", False
    with held:
        if held.family != socket.AF_UNIX:
            return "", False
        name: str | bytes = held.getsockname()
        return name, bool(held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
