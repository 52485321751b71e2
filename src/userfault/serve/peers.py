"""Who has connected, as the kernel vouches for it, and whether it may."""

from __future__ import annotations

import os
import socket
import struct

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.serve.records import Who

_PEERPIDFD = 77  # SO_PEERPIDFD of asm-generic/socket.h, 6.5
_PEERGROUPS = 59  # SO_PEERGROUPS, 4.13
_CREDENTIALS = struct.Struct("=iII")  # struct ucred (unix(7))
_GROUPS = 4096  # bytes: more groups than a login has


class RefusedError(UserfaultError):
    """A client that is not served, and why: for the log."""


class Peer(msgspec.Struct, frozen=True):
    """The process that made a connection: pidfd, process id here, user, and groups."""

    process: int
    pid: int
    user: int
    groups: frozenset[int]


def peer(channel: socket.socket) -> Peer:
    """Who is at the other end.  The pidfd is the caller's.

    Raises RefusedError where it has ended already, or is not to be seen from here.
    """
    told = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, group = _CREDENTIALS.unpack(told)
    try:
        process = _process(channel, pid)
    except OSError as error:
        raise RefusedError(
            "a client that cannot be seen",
            cause=f"process {pid}: {os.strerror(error.errno or 0)}",
            cure="it has ended; or it runs in a pid namespace beside this one: let it run below",
        ) from None
    return Peer(process, pid, user, frozenset({group, *_groups(channel)}))


def _process(channel: socket.socket, pid: int) -> int:
    """Its pidfd: from the socket, which no other process of that number can be behind (6.5)."""
    try:
        return channel.getsockopt(socket.SOL_SOCKET, _PEERPIDFD)
    except OSError:
        if pid <= 0:
            raise
    return os.pidfd_open(pid)


def _groups(channel: socket.socket) -> tuple[int, ...]:
    try:
        data = channel.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, _GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"={len(data) // 4}I", data)


def admit(who: Who, found: Peer) -> None:
    """Raise RefusedError for somebody who may not be served here."""
    if not who.users and not who.groups:
        return
    if found.user in (0, os.geteuid(), *who.users) or found.groups & set(who.groups):
        return
    raise RefusedError(
        f"process {found.pid} may not be served here",
        cause=f"user {found.user} is none of those who may",
        cure="start the daemon with --allow-user or --allow-group for it",
    )
