"""Stopping a process for a while, and letting it go on whatever happens to us.

SIGSTOP stops every thread; but if whoever sent it is killed, nobody sends SIGCONT.  So a child of
our own, in a session of its own, waits for the end of a pipe and sends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from userfault.kernel.errors import Unavailable
from userfault.linux import pidfd

_STEP_S = 0.001
# A byte is "all is well"; the end of the pipe without one is that we have died.
_GUARD = """
import os, signal, sys
if not os.read(0, 1):
    signal.pidfd_send_signal(int(sys.argv[1]), signal.SIGCONT)
"""


class Stopped:
    """A process that is stopped from now on, until `resume`; one that was stopped stays so.

    `since`: by time.monotonic().

    Raises ProcessLookupError, PermissionError, and Unavailable where it does not stop in time: a
    thread that sleeps in the kernel uninterruptibly stops only when it wakes.
    """

    def __init__(self, pid: int, *, timeout_s: float = 10.0) -> None:
        self._pid = pid
        self._guard: subprocess.Popen[bytes] | None = None
        self._pidfd = os.pidfd_open(pid)
        self.since = time.monotonic()
        try:
            if not self.still:
                self._guard = _guard(self._pidfd)
                self.since = time.monotonic()
                signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
                self.settle(timeout_s)
        except BaseException:
            self.resume()
            raise

    @property
    def still(self) -> bool:
        """Whether every thread is stopped (or ended) at this moment."""
        return all(state in "TtZX" for state in _states(self._pid))

    def settle(self, timeout_s: float = 10.0) -> None:
        """Return when all have stopped: also after a debugger let them go.  Raises Unavailable."""
        deadline = time.monotonic() + timeout_s
        while not self.still:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"process {self._pid} does not stop",
                    cause=f"a thread of it did not react to SIGSTOP within {timeout_s:.0f} s",
                    cure="wait until its I/O is done, or take it running",
                )
            time.sleep(_STEP_S)

    def resume(self) -> None:
        """Let it go on if we have stopped it.  May be called again."""
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
            with contextlib.suppress(BrokenPipeError):  # somebody killed the guard
                guard.communicate(b".")
        fd, self._pidfd = self._pidfd, -1
        pidfd.close_all([fd])


def _guard(fd: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[fd],
            start_new_session=True,  # what ends our group or terminal does not reach it
        )
    except OSError as error:
        raise Unavailable(
            "cannot start the process that would let a stopped one go if this one is killed",
            cause=f"{sys.executable}: {os.strerror(error.errno or 0)}",
            cure="mend that, or take it running",
        ) from None


def _states(pid: int) -> list[str]:
    """The state of each thread, a letter (proc_pid_stat(5)); none when the process has ended."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{pid}/task/{thread}/stat", "rb") as file,
            ):
                # The name in parentheses may hold anything, also ") R".
                found.append(file.read().rpartition(b") ")[2][:1].decode())
    return found
