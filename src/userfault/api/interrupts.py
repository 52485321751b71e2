"""Letting the pager know of signals that Python cannot act upon, because a thread waits for a page.

Python's handlers run between bytecodes, and there are none while C code (NumPy's, say) touches
memory that is not there.  But what CPython installs for a signal is a C function, and that writes
the number of the signal to the *wakeup descriptor* at once, whoever holds the GIL
(signal.set_wakeup_fd).  Ours is a log in memory that the pager reads; what it makes of SIGINT says
`pager/drivers/clients/interrupts.py`.  The program's handlers run as ever.

There is one such descriptor a process.  Who has one keeps it (asyncio in a loop that handles
signals, uvloop, trio), and who sets one later has it from then on.  Ours is never closed, as a
program that restores it must not find somebody else's file at its number.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import resource
import signal
import sys

from userfault.api.undisturbed import in_main_thread, undisturbed

_MOST = 1 << 16  # bytes kept of the past

_log = -1


def signal_log() -> int:
    """The log of this process's signals, for the pager; -1 where there is none."""
    if _log >= 0 and os.fstat(_log).st_size > _MOST:
        os.ftruncate(_log, 0)
    return _log


def listen() -> None:
    """Have signals logged from now on, if nobody else listens.  In the main thread; elsewhere it
    does nothing."""
    if "trio" in sys.modules or not in_main_thread():  # trio warns of whoever has set one
        return
    with contextlib.suppress(OSError, ValueError):  # a call that is refused, no descriptor left
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
            return  # CPython would complain of each signal
        if _log < 0:
            undisturbed(_make_log)
        _take(_log)


def _take(log: int) -> None:
    """Set our descriptor, unless there is one."""
    written = os.fstat(log).st_size
    before: list[int] = []
    try:  # in C from the call to the list: a handler that raises does not take it from its owner
        before.extend(map(_set, [log]))
    finally:
        if before and before[0] not in (-1, log):
            _set(before[0])
            missed = os.pread(log, _MOST, written)
            if missed:  # signals of this very moment
                with contextlib.suppress(OSError):
                    os.write(before[0], missed)


_set = functools.partial(signal.set_wakeup_fd, warn_on_full_buffer=False)


def _make_log() -> None:
    global _log  # noqa: PLW0603  # one a process
    log = os.memfd_create("userfault-signals", os.MFD_CLOEXEC)
    flags = fcntl.fcntl(log, fcntl.F_GETFL)
    fcntl.fcntl(log, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)
    _log = log


def _forked() -> None:
    """In a child of fork(2): its signals are not its parent's."""
    global _log
    log, _log = _log, -1
    if log < 0:
        return
    with contextlib.suppress(ValueError):
        before = signal.set_wakeup_fd(-1)
        if before != log:
            _set(before)
    os.close(log)


os.register_at_fork(after_in_child=_forked)
