"""A pager's first process, started before its client has loaded anything.

A command of ours that will need a pager takes as long to load its own code as a pager takes to
come up, so it has the interpreter started first, which waits for the first packet once it has
loaded what it runs.  `starting` takes it over then; a command that needs none in the end ends it.

Only a process of ours that has just begun may do so: no thread runs yet, and little is open.  All
that is out of the ordinary (another Python is asked for, standard streams are closed, no /proc) is
left to the usual start, which tells what is wrong.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import sys

from userfault.pager.drivers.processes.lean import READING, command, lean_path
from userfault.pager.drivers.processes.naming import VARIABLE, looks_like_python

_PROGRAM = "userfault.api.pager_main"
_SIGPIPE, _SIGXFSZ, _SIGKILL = 13, 25, 9  # signal(7); the module `signal` is loaded later


class Ahead:
    """`channel`: to the process `pid`, which writes what it says to the memfd `said`."""

    def __init__(self, channel: _socket.socket, pid: int, said: int) -> None:
        self.channel = channel
        self.pid = pid
        self.said = said


_begun: list[Ahead] = []


def begin() -> None:
    """Start one, unless there is one already, or it cannot be done here."""
    with contextlib.suppress(OSError, ValueError, NotImplementedError):
        if _begun or VARIABLE in os.environ or not looks_like_python(sys.executable):
            return
        with contextlib.ExitStack() as undo:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            said = os.memfd_create("userfault-said", os.MFD_CLOEXEC)
            undo.callback(os.close, said)
            with contextlib.closing(theirs):
                if min(ours.fileno(), theirs.fileno(), said) <= 2:
                    return
                # From here on the kernel tells who sends each request.
                theirs.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
                pid = _spawned(theirs.fileno(), said)
            undo.pop_all()
            _begun.append(Ahead(ours, pid, said))


def take() -> Ahead | None:
    """The one that was begun, which is the caller's from now on."""
    return _begun.pop() if _begun else None


def drop() -> None:
    """End it, if nobody took it."""
    begun = take()
    if begun is not None:
        begun.channel.close()
        os.close(begun.said)
        with contextlib.suppress(OSError):
            os.kill(begun.pid, _SIGKILL)
            os.waitpid(begun.pid, 0)


def _spawned(channel: int, said: int) -> int:
    """Its process id: in a session of its own, with the socket, standard error, and no more."""
    inherited = [
        int(name)
        for name in os.listdir("/proc/self/fd")
        if int(name) > 2 and _inheritable(int(name))
    ]
    os.set_inheritable(channel, True)
    return os.posix_spawn(
        sys.executable,
        command(sys.executable, _PROGRAM, "main", channel, lean_path(), more=READING, sign=True),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, said, 2),
            *((os.POSIX_SPAWN_CLOSE, each) for each in inherited),
        ],
        setsid=True,
        setsigdef=[_SIGPIPE, _SIGXFSZ],
    )


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the one by which the folder was read
        return False
