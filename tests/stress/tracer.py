"""Stopping a process at its n-th system call, to kill it there or to refuse the call (ptrace(2)).

A system call has two stops: its entry, where a kill means that it is not made, and its exit, where
it was made and its caller never saw the result.  All calls for one process come from one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_DETACH, _SYSCALL, _SEIZE, _INTERRUPT = 17, 24, 0x4206, 0x4207  # linux/ptrace.h
_GETREGS, _SETREGS = 12, 13  # asm/ptrace-abi.h: x86-64 only
_GET_SYSCALL_INFO, _ENTRY = 0x420E, 1  # 5.3
_O_TRACESYSGOOD = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_WALL = 0x40000000
_HANG_S = 30.0
_RAX, _ORIG_RAX, _REGISTERS = 10, 15, 27  # struct user_regs_struct, 64-bit words
CAN_REFUSE = os.uname().machine == "x86_64"

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, data: int = 0, address: int = 0) -> None:
    where, what = ctypes.c_void_p(address), ctypes.c_void_p(data)
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), where, what) < 0:
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
        self._go_on()
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
            self._go_on(number if number not in (_SYSCALL_STOP, signal.SIGTRAP) else 0)

    def _go_on(self, passed_on: int = 0) -> None:
        """To its next stop.  Whoever was killed since its last one is none to ptrace(2): the next
        wait tells."""
        with contextlib.suppress(ProcessLookupError):
            _ptrace(_SYSCALL, self.pid, passed_on)

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self.place = Path(f"/proc/{self.pid}/syscall").read_text().strip()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, _WALL)

    def refuse_at(self, call: int, code: int, spared: set[int], marker: int) -> bool:
        """Let it run to its `call`th system call and have that fail with errno `code`, unmade.

        Calls whose numbers are in `spared` do not count, nor those before the first call of number
        `marker`.  False if there is a second one before.  Raises ChildProcessError when it ends by
        itself.
        """
        begun = False
        deadline = time.monotonic() + _HANG_S
        self._go_on()
        while True:
            pid, status = os.waitpid(self.pid, _WALL | os.WNOHANG)
            if not pid:
                if time.monotonic() > deadline:
                    return True  # the judge will see that it hangs
                time.sleep(0.0002)
                continue
            if not os.WIFSTOPPED(status):
                raise ChildProcessError(f"the traced process ended by itself: {status:#x}")
            number = os.WSTOPSIG(status)
            if number == _SYSCALL_STOP:
                made = self._call_made()
                if made == marker and begun:
                    _ptrace(_SYSCALL, self.pid)
                    return False
                if begun and made >= 0 and made not in spared:
                    self.stops += 1
                    if self.stops == call:
                        self.place = str(made)
                        self._refuse(code)
                        return True
                begun = begun or made == marker
            passed_on = number if number not in (_SYSCALL_STOP, signal.SIGTRAP) else 0
            self._go_on(passed_on)

    def _refuse(self, code: int) -> None:
        """At the entry: no call has the number -1; at its exit, the answer is another one."""
        self._set(_ORIG_RAX, -1)
        _ptrace(_SYSCALL, self.pid)
        os.waitpid(self.pid, _WALL)
        self._set(_RAX, -code)
        _ptrace(_SYSCALL, self.pid)

    def _call_made(self) -> int:
        """The number of the call at whose entry it stands, -1 at an exit."""
        info = (ctypes.c_uint64 * 11)()  # struct ptrace_syscall_info
        _ptrace(_GET_SYSCALL_INFO, self.pid, ctypes.addressof(info), ctypes.sizeof(info))
        return int(info[3]) if info[0] & 0xFF == _ENTRY else -1

    def _registers(self) -> ctypes.Array[ctypes.c_int64]:
        found = (ctypes.c_int64 * _REGISTERS)()
        _ptrace(_GETREGS, self.pid, ctypes.addressof(found))
        return found

    def _set(self, register: int, value: int) -> None:
        held = self._registers()
        held[register] = value
        _ptrace(_SETREGS, self.pid, ctypes.addressof(held))

    def release(self) -> None:
        """Let it run on alone."""
        with contextlib.suppress(OSError):
            self._stop()
            _ptrace(_DETACH, self.pid)
