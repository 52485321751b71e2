"""What runs in a process of its own."""

from __future__ import annotations

import fcntl
import os
import signal

from userfault.source import opening


def opens_a_leased_file(path: str) -> str:
    """A child has a lease on it, and gives it up when it is asked for it."""
    ready, leased = os.pipe()
    holder = os.fork()
    if not holder:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        held = os.open(path, os.O_RDWR)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.write(leased, b"x")
        signal.sigwait({signal.SIGIO})
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os._exit(0)
    os.read(ready, 1)
    fd = opening.open_file(path)
    found = os.read(fd, 100)
    os.waitpid(holder, 0)
    return found.decode()
