"""Having every thread of a process stand still for a moment, without anybody's seeing it stop.

By ptrace(2): PTRACE_SEIZE and PTRACE_INTERRUPT.  SIGSTOP would be seen by the parent (a shell takes
its terminal back); and a thread that is held by ptrace goes on by itself when whoever holds it is
killed.  A process cannot do this to itself, nor to one that a debugger holds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from userfault.kernel.errors import Unavailable

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h
_EVENT_STOP = 128
_WALL = 0x40000000  # waitpid(2): threads too
_STEP_S = 0.00005

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Frozen:
    """All threads of `pid` stand still from now on, until `thaw`.  `since`: by time.perf_counter().

    Our process may have no other children meanwhile.  Raises Unavailable where that is not allowed,
    or a thread does not stop within `timeout_s`: it sleeps in the kernel uninterruptibly.
    """

    def __init__(self, pid: int, *, timeout_s: float = 0.5) -> None:
        self._pid = pid
        self._signals: dict[int, int] = {}  # of each thread that stands: what it was to get
        self.since = time.perf_counter()
        try:
            self._freeze(time.monotonic() + timeout_s)
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> float:
        """Let all go on; for how long they stood, in seconds.  May be called again."""
        for thread, signal in self._signals.items():
            _ptrace(_DETACH, thread, 0, signal)  # it may have been killed
        self._signals = {}
        return time.perf_counter() - self.since

    def _freeze(self, deadline: float) -> None:
        """A thread that still runs may make another, so look again until there is none."""
        while new := self._threads() - self._signals.keys():
            waiting = {thread for thread in new if self._seize(thread)}
            while waiting:
                if not self._wait(waiting) and time.monotonic() > deadline:
                    for thread in waiting:  # those cannot be let go, but end with us
                        self._signals[thread] = 0
                    raise Unavailable(
                        f"process {self._pid} does not stand still",
                        cause="a thread of it sleeps in the kernel and cannot be stopped",
                        cure="try again when its I/O is done",
                    )

    def _threads(self) -> set[int]:
        return set(map(int, os.listdir(f"/proc/{self._pid}/task")))

    def _seize(self, thread: int) -> bool:
        """Whether it is there, and is to be waited for."""
        for request in (_SEIZE, _INTERRUPT):
            if _ptrace(request, thread, 0, 0) < 0:
                code = ctypes.get_errno()
                if code == errno.ESRCH or _has_ended(self._pid, thread):
                    self._signals.setdefault(thread, 0)
                    return False
                raise Unavailable(
                    f"cannot have process {self._pid} stand still",
                    cause=f"ptrace: {os.strerror(code)}: a debugger holds it, or it is forbidden"
                    " (kernel.yama.ptrace_scope, a seccomp profile, PR_SET_DUMPABLE)",
                    cure="allow ptrace(2) by a child of the process, or take it running",
                )
        return True

    def _wait(self, waiting: set[int]) -> bool:
        """Take in who stands by now; False where nobody new did."""
        found = False
        for thread in list(waiting):
            try:
                pid, status = os.waitpid(thread, _WALL | os.WNOHANG)
            except ChildProcessError:  # it has ended
                pid, status = thread, 0
            if pid != thread:
                continue
            found = True
            waiting.discard(thread)
            # It stands for us, or for a signal that it is to get when it goes on.
            signal = os.WSTOPSIG(status) if os.WIFSTOPPED(status) else 0
            self._signals[thread] = 0 if status >> 16 == _EVENT_STOP else signal
        if not found:
            time.sleep(_STEP_S)
        return found


def _has_ended(pid: int, thread: int) -> bool:
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True
