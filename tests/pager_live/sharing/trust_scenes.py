"""Whoever should not have a copy, each in a process of its own."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import userfault
from helpers.child import become_nobody, forbid_system_call
from userfault import Policy, lazy
from userfault.kernel.errors import Unavailable
from userfault.pager.drivers.shared import asking, place, words

_TIMEOUT_S = 20
_UNUSED = 448  # process_mrelease(2)


def _said(path: str, data: bytes) -> str:
    """What the keeper answers to `data`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(_TIMEOUT_S)
        channel.connect(path)
        channel.send(data)
        answer = words.address_in(channel.recv(words.MOST))
        return "granted" if isinstance(answer, int) else answer


def as_nobody(folder: str) -> dict[str, str]:
    """Another user, by the folder and by the socket itself."""
    become_nobody()
    found = {"folder": "", "socket": ""}
    try:
        asking.ask(bytes(32), 1)
    except Unavailable as error:
        found["folder"] = error.cause.partition(": ")[2]
    try:
        found["socket"] = _said(
            str(Path(folder) / place.SOCKET), words.Ask(bytes(32), 1, 0.0).encode()
        )
    except OSError as error:
        found["socket"] = type(error).__name__
    return found


def with_a_filter(snapshot: str) -> str:
    """The same user, under a seccomp filter: why `share="on"` is refused; `auto` goes without."""
    forbid_system_call(_UNUSED, errno.EPERM)
    with lazy(snapshot) as mapped:
        assert mapped.memory.name != "shmem-private"  # which depends on what memory is left
        mapped.complete()
    try:
        lazy(snapshot, policy=Policy(share="on")).close()
    except userfault.Unavailable as error:
        return error.cause
    return "granted"


def say(data: str) -> str:
    """Bytes that are not the keeper's words."""
    with place.folder() as folder:
        try:
            return _said(place.path_in(folder, place.SOCKET), bytes.fromhex(data))
        except (OSError, TimeoutError) as error:
            return type(error).__name__
