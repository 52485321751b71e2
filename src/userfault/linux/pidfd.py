"""Descriptors of processes, and descriptors sent between processes.

A pidfd names one process for ever (pidfd_open(2), 5.3): it polls readable when the process has
ended, and a signal sent by it cannot hit a successor of the same number.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket

_FD = array.array("i")


def ended(pidfd: int) -> bool:
    """Whether the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def wait(pidfd: int, timeout_s: float) -> bool:
    """Wait for the process to end; False when it still runs after `timeout_s` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def kill(pidfd: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that has ended already is no error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def pid_of(pidfd: int) -> int:
    """The process id behind a pidfd as seen here; -1 once it was reaped, 0 if not to be seen."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0


def receive(channel: socket.socket, size: int, most: int) -> tuple[bytes, list[int], bool]:
    """A packet of at most `size` bytes with at most `most` descriptors, and whether some were lost.

    `socket.recv_fds` ignores its flags (CPython 3.11): what it receives would be passed on to every
    program that this process starts.
    """
    data, control, flags, _ = channel.recvmsg(
        size, socket.CMSG_LEN(most * _FD.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    found = array.array("i")
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) // _FD.itemsize * _FD.itemsize])
    return data, list(found), bool(flags & socket.MSG_CTRUNC)


def close_all(descriptors: list[int]) -> None:
    """Close each descriptor of the list that is one."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)
