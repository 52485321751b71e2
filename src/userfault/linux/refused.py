"""System calls that were refused: an error that names the call, and the cure that fits.

"Operation not permitted" of a program that makes thirty different calls tells nobody which one a
container's seccomp profile forbids; and who has met a limit must hear which.  (errno(3);
getrlimit(2); seccomp(2): a profile answers with any errno it likes, mostly EPERM or ENOSYS.)
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from userfault.linux.limits import growing

_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_LIMITS = {
    errno.EMFILE: "the process has no descriptor left: close some, or raise `ulimit -n`",
    errno.ENFILE: "the whole system has no descriptor left: raise the sysctl fs.file-max",
    errno.EAGAIN: "no further process may be started: raise `ulimit -u`, or pids.max of the cgroup",
    errno.ENOMEM: "memory ran out: raise `ulimit -v`, or memory.max of the cgroup",
    errno.ENOSPC: "memory ran out: raise memory.max of the cgroup, or free memory",
}


class CallRefusedError(OSError):
    """The kernel refused `call` with `errno`."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(code, f"{call}: {os.strerror(code)}")
        self.call = call

    def __reduce__(self) -> tuple[type[CallRefusedError], tuple[str, int]]:
        return type(self), (self.call, self.errno or 0)


@contextlib.contextmanager
def calling(call: str) -> Iterator[None]:
    """Have an OSError within it name the system call: CallRefusedError."""
    try:
        yield
    except OSError as error:
        raise CallRefusedError(call, error.errno or 0) from error


def cause_of(error: OSError) -> str:
    """What was refused, and how."""
    code = error.errno or 0
    name = errno.errorcode.get(code, str(code))
    call = f"{error.call}: " if isinstance(error, CallRefusedError) else ""
    if code == errno.EFBIG:  # memory is a file here
        return call + growing(error).cause
    return f"{call}{os.strerror(code)} ({name})"


def cure_of(error: OSError) -> str:
    """What to change."""
    code = error.errno or 0
    if code in _LIMITS:
        return _LIMITS[code]
    if code == errno.EFBIG:
        return growing(error).cure
    if isinstance(error, CallRefusedError) and code in _FORBIDDEN:
        return (
            f"a seccomp profile or a security module forbids the call, or this kernel lacks it:"
            f" allow `{error.call}` in the profile of the container"
        )
    return "check the limits on processes (ulimit -u), descriptors (-n) and memory (-v)"
