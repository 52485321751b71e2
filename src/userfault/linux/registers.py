"""The registers of the threads of a process that is stopped (ptrace(2)).

What a debugger needs beside the memory.  A thread that SIGSTOP has stopped is attached to, asked,
and let go, and is stopped as before: it never runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_SEIZE, _INTERRUPT, _GETREGSET, _DETACH = 0x4206, 0x4207, 0x4204, 17  # linux/ptrace.h
_NT_PRSTATUS = 1  # linux/elf.h: the general registers
_WALL = 0x40000000  # waitpid(2): threads too
_LARGEST = 1024

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def registers(pid: int) -> dict[int, bytes]:
    """The general registers of each living thread, as in the kernel's `struct user_regs_struct`.

    The first one is the process's own, where that lives.  Raises OSError: EPERM where a debugger
    holds it or that is not allowed, ESRCH where it has ended.  While this runs, nobody else in this
    process may wait for any child.
    """
    threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid))
    found = {}
    for thread in threads:
        if thread == pid and _has_ended(thread):  # pthread_exit(3) in main
            continue
        _call(_SEIZE, thread)
        try:
            _call(_INTERRUPT, thread)
            os.waitpid(thread, _WALL)
            found[thread] = _general(thread)
        finally:
            with contextlib.suppress(OSError):  # it was killed meanwhile
                _call(_DETACH, thread)
    return found


def _has_ended(thread: int) -> bool:
    with open(f"/proc/{thread}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")


def _general(thread: int) -> bytes:
    buffer = ctypes.create_string_buffer(_LARGEST)
    vector = _Vector(ctypes.addressof(buffer), _LARGEST)
    _call(_GETREGSET, thread, _NT_PRSTATUS, ctypes.addressof(vector))
    return buffer.raw[: vector.length]


def _call(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if _ptrace(request, thread, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
