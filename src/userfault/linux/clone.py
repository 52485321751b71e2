"""A child process that shares the descriptor table: what either opens, both hold.

When one of the two is killed, nothing that it had open is closed, not even a descriptor that the
kernel made for it a moment before.  `os.fork` copies the table instead.  (clone(2), CLONE_FILES.)
"""

from __future__ import annotations

import ctypes
import os
import signal

from userfault.uapi.syscalls import SYSCALLS

_CLONE_FILES = 0x400  # linux/sched.h
_CLONE_CHILD_CLEARTID = 0x200000
_CLONE_CHILD_SETTID = 0x1000000
_PR_GET_TID_ADDRESS = 40  # prctl(2), 3.5; needs CONFIG_CHECKPOINT_RESTORE

# PyDLL keeps the GIL: the child must not have to wait for a lock that nobody gives back.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def fork_sharing_descriptors() -> int:
    """Fork; 0 in the child, its process id in the parent.  For single-threaded processes only.

    The child must end by `os._exit` and must not close what it did not open: there is one table.
    Raises OSError.
    """
    flags, tid_address = _CLONE_FILES | signal.SIGCHLD, _tid_address()
    if tid_address:  # as fork(3) does: the C library caches the thread id there
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    number = SYSCALLS.get(os.uname().machine, {}).get("clone", -1)  # -1: ENOSYS
    # x86-64 takes the address as fourth argument, aarch64 as fifth; the other one is ignored.
    arguments = [ctypes.c_long(each) for each in (number, flags, 0, 0, tid_address, tid_address)]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_libc.syscall(*arguments))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return pid


def _tid_address() -> int:
    """Where the C library keeps this thread's id; 0 where the kernel does not tell."""
    address = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address)):
        return 0
    return address.value or 0
