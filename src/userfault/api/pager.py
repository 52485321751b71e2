"""`Pager`: the client's end of a pager process, which may serve many mappings."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userfault.api.asking import ask, hung_up
from userfault.api.starting import Family, start
from userfault.api.undisturbed import Tie, undisturbed
from userfault.kernel.errors import PagerError, UsageError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.kernel.numbers import whole
from userfault.linux import cpus, pidfd
from userfault.linux.smaps import private_memory
from userfault.linux.unpatched import original
from userfault.pager.core.placing import FOLLOW, Placing
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.record.status import ROLES, Shown
from userfault.pager.drivers.wire import messages
from userfault.version import __version__

if TYPE_CHECKING:
    from userfault.api.serving import Session

_END_S = 10.0
_NAME = b"userfault.api.pager_main"


class Pager:
    """A pager of one's own, for any number of `lazy(..., pager=...)` mappings.

    It is a family of three processes: one serves, one watches it, one stands ready.  Whichever is
    killed is replaced, and threads that wait go on.  Starting one takes some 65 ms; a shared one
    serves a further mapping within 3 ms.  Use it as a context manager, or call `close()`.
    Thread-safe.  It serves when this returns; raises PagerError, with the one cause, when it cannot
    be started.

    `cpu`: where it runs: "follow" (on the CPU whose thread faults, if that is a gain), "any" (as
    the scheduler likes) or the number of a CPU.  `poll_budget`: the share of a CPU's time (0 to 1)
    that it may spend on polling, for faults when it is not on the faulting thread's CPU, and for a
    disk that is about to answer.  Raises
    UsageError for a CPU that is not to be had.  docs/performance.md says what to expect of them.

    `in_flight`: reads of sources under way at once, by threads and worker processes, of all its
    mappings together; they share these places fairly, faults before background fill.

    `python`: the interpreter that its processes run, for programs whose own is no Python to be run
    (frozen or embedded ones), with this version of userfault installed.  By default that of
    USERFAULT_PYTHON, else `sys.executable`.

    >>> with Pager() as pager:
    ...     pager.alive
    True
    """

    def __init__(
        self,
        *,
        cpu: str | int = FOLLOW,
        poll_budget: float = 0.5,
        in_flight: int = 32,
        python: str | None = None,
        _meanwhile: Callable[[], object] | None = None,
        _more: Sequence[str] = (),
    ) -> None:
        places = whole("in_flight", in_flight)
        hello = messages.Hello(Placing(cpu, poll_budget), places, __version__)
        if isinstance(hello.placing.cpu, int):
            _check_cpu(hello.placing.cpu)
        if hello.in_flight < 1:
            raise UsageError(
                f"Pager(in_flight={in_flight})",
                cause="without a place no source can be read",
                cure="leave it out for the default",
            )
        self._set_up()
        undisturbed(functools.partial(self._start, hello, python, _meanwhile, _more))

    def _set_up(self) -> None:
        self._lock = original("_thread", "allocate_lock")()
        self._numbers = 0
        self._serial = 0
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def _start(
        self,
        hello: messages.Hello,
        python: str | None,
        meanwhile: Callable[[], object] | None,
        loads: Sequence[str],
    ) -> None:
        self._family = start(hello, python, meanwhile=meanwhile, loads=loads)
        self._held = Held(self._family)
        self._tie = Tie(self, self._held)

    @property
    def alive(self) -> bool:
        """Whether any of its processes runs."""
        return self._held.open and not hung_up(self._family.channel)

    @property
    def channel(self) -> int:
        """A socket that hangs up (POLLHUP) when the last process has ended."""
        return self._family.channel.fileno()

    @property
    def takeovers(self) -> int:
        """How often another process had to go on for one that was killed."""
        if not self._held.open:
            return 0
        return self._family.status.words[Shown.TAKEOVERS]

    def processes(self) -> dict[str, int]:
        """Process ids of the worker, the supervisor and the spare (0: not started yet).

        They are as the processes see them themselves, in the pid namespace they were started in.
        """
        if not self._held.open:
            return {role.name.lower(): 0 for role in ROLES}
        return {role.name.lower(): self._family.status.words[role] for role in ROLES}

    def memory(self) -> dict[str, int]:
        """Bytes of private memory of each process, as in `processes()` (0: it has just ended)."""
        return {role: private_memory(pid) for role, pid in self.processes().items()}

    def replace(self) -> None:
        """Hand over to new processes, made from the code that is installed now.

        No fault is lost: threads that fault meanwhile wait some milliseconds longer.  Raises
        PagerError when the new code does not start; the old processes serve on then.
        """
        self.request(messages.Replace())

    def serve(
        self,
        uffd: Any,
        regions: Iterable[tuple[int, int, int]],
        source: Any,
        *,
        process: int | None = None,
        page_size: int = BASE_PAGE,
        length: int | None = None,
        policy: Policy | None = None,
    ) -> Session:
        """Serve memory that is registered already: for programs that have clients of their own.

        `uffd`: a userfaultfd (a descriptor, or what has `fileno()`), of which the pager gets a
        duplicate; its handshake is done, and all of `regions` registered for missing faults.
        `regions`: (address, bytes, offset in the source) of each, in whole pages.  `source`,
        `length`: as for `lazy()`, but no function.  `process`: the id of the process whose memory
        it is, this one by default; a process that nobody can serve any more is ended by SIGKILL
        rather than left to wait.  `policy`: by default nothing is filled that nobody touches.

        Reads of the userfaultfd are the pager's from here on.  Raises UsageError for what cannot
        be served, SourceError and its like for the source, PagerError for the pager.
        """
        from userfault.api.serving import Request, begin  # noqa: PLC0415  # brings wire along

        request = Request(tuple(regions), page_size, length, policy, process or os.getpid())
        number = self.number()
        session = undisturbed(
            functools.partial(begin, self._family, self.request, number, uffd, source, request)
        )
        self._sessions.add(session)
        return session

    def number(self) -> int:
        """A number for a new mapping."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def request(
        self, message: messages.Request, fds: list[int] | None = None
    ) -> messages.Done | messages.Answer | messages.Loaded:
        """Send a request and wait for its reply; raises PagerError when it refuses or is dead."""
        if self._held.left or os.getpid() != self._family.owner:
            raise PagerError(
                "the pager belongs to another process",
                cause="this process was forked from the one that made it",
                cure="make a Pager() here",
            )
        if not self._held.open:
            raise PagerError(
                "the pager is closed", cause="close() was called", cure="make a new Pager()"
            )
        with self._lock:
            self._serial += 1
            messages.forget_replies(self._family.channel)
            reply = ask(self._family, self._serial, message, fds or [])
        if reply is None:
            raise PagerError(
                "the pager has died",
                cause="all its processes were killed at once, or it failed: its standard error"
                " may say more",
                cure="memory that was not filled yet is lost: restore again with a new pager",
            )
        if isinstance(reply, messages.Refused):
            raise PagerError(reply.what, cause=reply.cause, cure=reply.cure)
        return reply

    def close(self) -> None:
        """End the processes.  Mappings that are not complete must be left before; sessions are."""
        for session in list(self._sessions):
            session.close()
        undisturbed(self._tie.end)

    def __enter__(self) -> Pager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check_cpu(cpu: int) -> None:
    """Raise UsageError unless a process of ours may run there: by trying."""

    def possible() -> bool:
        before = os.sched_getaffinity(0)
        try:
            return cpus.move(frozenset({cpu}))
        finally:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, before)

    if not undisturbed(possible):
        raise UsageError(
            f"cpu={cpu}",
            cause="there is no such CPU, or it is offline, or a cpuset forbids it",
            cure="pass one of os.sched_getaffinity(0)",
        )


class Held:
    """The client's part of a family, until it is let go of."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self.open = True
        self.left = False  # this process was forked from the one that made it

    def end(self, *, gone: bool) -> None:
        """Ask the processes to end, kill them if they do not, and reap our child among them."""
        del gone
        channel, (_, process) = self._family.channel, self._family.first
        if os.getpid() == self._family.owner:
            channel.settimeout(_END_S)
            with contextlib.suppress(PagerError):
                ask(self._family, 0, messages.Quit(), [])
            if not hung_up(channel, _END_S):
                _kill(self._family)
            pidfd.wait(process, _END_S)
            # By its pidfd: where the program reaps every child, the id may be another's by now.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, process, os.WEXITED)
        self._close()

    def forked(self) -> None:
        """In a child of fork(2): close its copies of the descriptors, and nothing else."""
        self.left = True
        if self.open:
            self._close()

    def _close(self) -> None:
        self.open = False
        self._family.channel.close()
        if self._family.first[1] >= 0:
            os.close(self._family.first[1])
        self._family.status.close()


def _kill(family: Family) -> None:
    """Kill whoever is left, the one that would replace the others first."""
    for role in reversed(ROLES):
        pid = family.status.words[role]
        with contextlib.suppress(OSError):  # it has ended
            # Ids are those of the family's own pid namespace: make sure that it is one of ours.
            if _NAME in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
