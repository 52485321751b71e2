"""systemd's side: sockets that it has opened (sd_listen_fds(3)), and telling it how one stands
(sd_notify(3)).  Both are a few variables of the environment and one datagram."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import NamedTuple

from userfault.kernel.errors import UsageError
from userfault.linux.accepted import listens

_FIRST = 3  # SD_LISTEN_FDS_START


class Passed(NamedTuple):
    """A listening socket that came with the start; `name`: FileDescriptorName= of its unit."""

    fd: int
    name: str


def passed() -> list[Passed]:
    """The sockets that are meant for this process; none where systemd did not start it so.

    Raises UsageError for what is no listening Unix socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    found = []
    for number in range(count):
        fd = _FIRST + number
        os.set_inheritable(fd, False)
        name = names[number] if number < len(names) else ""
        if name == "page-server":  # of any kind, and named by --page-server fd:NUMBER
            continue
        if not listens(fd):
            raise UsageError(
                f"socket {name or fd} from systemd",
                cause="it is no listening Unix socket",
                cure="write ListenStream=/PATH in its unit; for native ListenSequentialPacket=",
            )
        found.append(Passed(fd, name))
    return found


def notify(state: str) -> None:
    """Tell systemd, if it listens: READY=1, RELOADING=1, STOPPING=1, STATUS=..."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    if state.startswith("RELOADING"):
        state += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told,
    ):
        told.connect(address)
        told.send(state.encode())
