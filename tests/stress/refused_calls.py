"""Refuse each system call that `lazy()` makes in the client, one at a time, with each errno.

The n-th run of an errno has its n-th call refused, until a run has not made so many.  After that
the client is let alone: it works, or is told in one error; then a second `lazy()` has to work, and
no descriptor may be left of the first.  (ptrace(2); as a seccomp profile, a limit or a signal would
refuse them.)
"""

from __future__ import annotations

import errno
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

import userfault
from stress import narrow
from stress.narrow import Client, Went
from stress.tracer import Tracer
from userfault import Policy
from userfault.kernel.errors import UserfaultError

ERRNOS = (errno.EPERM, errno.ENOSYS, errno.EMFILE, errno.ENOMEM, errno.EINTR)
EVERY = 61  # for CI

# x86-64.  Nobody refuses these: what closes or unmaps (the memory would be leaked, by contract),
# a lock that the C library aborts over, the return of a signal handler, the end; and what is always
# successful (getpid(2), getuid(2), gettid(2)): the C library hands an errno on as an id.
_SPARED = {
    "close": 3,
    "munmap": 11,
    "rt_sigreturn": 15,
    "futex": 202,
    "exit_group": 231,
    "getpid": 39,
    "getuid": 102,
    "getgid": 104,
    "geteuid": 107,
    "getegid": 108,
    "getppid": 110,
    "gettid": 186,
}
_MARKER = 121  # getpgid: before and after `lazy()`
_DEMAND = Policy(background=False)


class Outcome(msgspec.Struct):
    """`calls`: how many were refused, of all errnos.  `bad`: what went wrong, and where."""

    calls: int = 0
    bad: list[str] = msgspec.field(default_factory=list)


def run(*, every: int = 1, progress: Callable[[Outcome], None]) -> Outcome:
    """Refuse every `every`th call."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="userfault-refused-") as directory:
        path = Path(directory, "source")
        narrow.write_source(path)
        _served(path)  # what is loaded late is loaded now
        for index, code in enumerate(ERRNOS):
            call, more = 1 + index * every // len(ERRNOS), True
            while more:
                place, went = _once(path, call, code)
                more = bool(place)
                outcome.calls += more
                if not went.right:
                    where = f"call {call} ({place}) refused with {errno.errorcode[code]}"
                    outcome.bad.append(f"{where}: {went.how}; {went.text}")
                progress(outcome)
                call += every
    return outcome


def few() -> tuple[int, list[str]]:
    """For CI, in a process of its own."""
    outcome = run(every=EVERY, progress=lambda _: None)
    return outcome.calls, outcome.bad


def _once(path: Path, call: int, code: int) -> tuple[str, Went]:
    """The number of the call that was refused (empty: there were fewer), and how it went."""
    client = Client(lambda: _client(path), wait=True)
    tracer = Tracer(client.thread())
    client.go()
    refused = tracer.refuse_at(call, code, set(_SPARED.values()), _MARKER)
    tracer.release()
    return (tracer.place if refused else ""), client.went()


def _client(path: Path) -> None:
    """`lazy()` once, of which a call is refused; then all is judged, and it is done again."""
    error: UserfaultError | None = None
    mapped = None
    before = _descriptors()
    os.getpgid(0)
    try:
        mapped = userfault.lazy(path, policy=_DEMAND)
    except UserfaultError as refused:
        error = refused.with_traceback(None)
    finally:
        os.getpgid(0)
    if mapped is not None:
        _judge(mapped)
        mapped.close()
        del mapped
    _served(path)
    gc.collect()
    left = _descriptors() - before
    if left:
        raise AssertionError(f"{left} descriptors are left")
    if error is not None:
        raise error


def _served(path: Path) -> None:
    with userfault.lazy(path, policy=_DEMAND) as mapped:
        _judge(mapped)


def _judge(mapped: userfault.LazyMemory) -> None:
    for page in range(narrow.PAGES):
        narrow.check(mapped, page)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
