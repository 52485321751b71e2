"""Stopping a process at its n-th system call, and killing it there (ptrace(2)).

A system call has two stops: its entry, where a kill means that it is not made, and its exit, where
it was made and its caller never saw the result.  All calls for one process come from one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

_DETACH, _SYSCALL, _SEIZE, _INTERRUPT = 17, 24, 0x4206, 0x4207  # linux/ptrace.h
_O_TRACESYSGOOD = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    null = ctypes.c_void_p(0)
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), null, ctypes.c_void_p(data)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace({request:#x}): {os.strerror(code)}")


class Tracer:
    """Holds one process; raises OSError where it may not be traced."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stops = 0
        self.place = ""  # the system call of the last stop: number and arguments
        _ptrace(_SEIZE, pid, _O_TRACESYSGOOD)
        self._stop()

    def _stop(self) -> None:
        _ptrace(_INTERRUPT, self.pid)
        os.waitpid(self.pid, _WALL)

    def kill_at(self, stop: int, done: Callable[[], bool]) -> bool:
        """Let it run to its `stop`th stop and kill it; False if `done` says so before.

        Raises ChildProcessError when it ends by itself.
        """
        _ptrace(_SYSCALL, self.pid)
        while True:
            pid, status = os.waitpid(self.pid, _WALL | os.WNOHANG)
            if not pid:
                if done():
                    return False
                continue
            if not os.WIFSTOPPED(status):
                raise ChildProcessError(f"the traced process ended by itself: {status:#x}")
            number = os.WSTOPSIG(status)
            if number == _SYSCALL_STOP:
                self.stops += 1
                if self.stops == stop:
                    self._kill()
                    return True
            passed_on = number if number not in (_SYSCALL_STOP, signal.SIGTRAP) else 0
            _ptrace(_SYSCALL, self.pid, passed_on)

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self.place = Path(f"/proc/{self.pid}/syscall").read_text().strip()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, _WALL)

    def release(self) -> None:
        """Let it run on alone."""
        with contextlib.suppress(OSError):
            self._stop()
            _ptrace(_DETACH, self.pid)
