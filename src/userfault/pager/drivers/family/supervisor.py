"""The processes of one pager: a worker that serves, a supervisor that watches, a spare that waits.

They share one descriptor table (`linux.clone`) and one journal, so each can become the other:

* The worker is killed: the supervisor calls the spare to be the worker, and makes a new spare.
* The supervisor is killed: the spare becomes the supervisor, and makes a new spare.
* The spare is killed: the supervisor makes a new one.

One process decides at any time: the supervisor, or the spare once the supervisor is dead.  Roles
are words of the journal; a new spare exists before the old one gets other work, so whichever
single process is killed in the middle of a change, another one knows what to do.  All of them
killed in one instant is the limit: then the last descriptors close, and the life line
(`linux.lifeline`) ends the client with SIGBUS.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux import pidfd
from userfault.linux.accepted import accepted
from userfault.linux.clone import fork_sharing_descriptors
from userfault.linux.descriptors import open_descriptors
from userfault.linux.pidfd import close_all
from userfault.linux.refused import calling, cause_of, cure_of
from userfault.pager.drivers.family.blame import CRASHES, Crashes
from userfault.pager.drivers.family.coming_up import refuse
from userfault.pager.drivers.family.stall import (
    IDLE,
    LOOK_S,
    SPARE_LOOK_S,
    Stall,
    may_be_stopped,
    tell_of_stall,
)
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.record.records import descriptors_in, kept_in

# What ends a process by its own doing, and would end the next one too.
_OWN_DOING = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGSYS,
)
_END_S = 10.0  # how long a killed process may take to end
_RETRY_S = 0.05  # when no process can be had; the pauses double
_LONGEST_RETRY_S = 5.0

ROLES = (Word.WORKER, Word.SUPERVISOR, Word.SPARE)

Serve = Callable[[Journal], None]


class _Spare(msgspec.Struct):
    """A spare: process id and pidfd, the eventfd that calls it, its pidfd of the supervisor."""

    pid: int
    process: int
    call: int
    watch: int


def found(
    journal: Journal,
    serve: Serve,
    begin: Callable[[], None],
    refused: Callable[[BaseException], None],
) -> NoReturn:
    """Become the supervisor of a new family whose workers run `serve`.

    `begin` is called when there is a spare, and before there is a worker.  `refused` hears why
    there can be no family; then this process ends.
    """

    def role() -> None:
        supervisor = Supervisor(journal, serve)
        try:
            supervisor.begin(begin)
        except (OSError, UserfaultError, MemoryError) as error:
            refused(error)
            os._exit(1)
        supervisor.run()

    _run(role)


class _Become(BaseException):
    """Raised in a child that was just forked, to get out of what its parent was doing.

    Else each generation would add the frames of the one before to its stack.
    """

    def __init__(self, role: Callable[[], None]) -> None:
        self.role = role


def _run(role: Callable[[], None]) -> NoReturn:
    """Play a role until it ends; nothing of Python's own ending may touch the shared table."""
    while True:
        try:
            role()
        except _Become as become:
            role = become.role
            continue
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)


class Supervisor:
    """Watches the worker and the spare, and replaces them."""

    def __init__(self, journal: Journal, serve: Serve) -> None:
        self._journal = journal
        self._words = journal.words
        self._serve = serve
        self._crashes = Crashes(journal)
        self._stall = Stall()
        self._spare_stall = Stall(IDLE)
        self._look_at = time.monotonic() + LOOK_S
        self._appointed = False
        self._pause = 0.0  # after the last attempt to be complete, which failed
        self._try_at = 0.0
        self._ends: dict[int, int] = {}  # wait statuses of children

    def begin(self, begin: Callable[[], None]) -> None:
        """Be complete, or raise OSError; then `begin`."""
        self._complete()
        begin()

    def run(self) -> None:
        """Watch until the worker says that nobody is left to serve."""
        journal, words = self._journal, self._words
        if not words[Word.WORKER]:
            self._next_worker()
        while not words[Word.RETIRED]:
            left = self._try_to_be_complete()
            members = [fd for _, fd in map(journal.member, (Word.WORKER, Word.SPARE)) if fd]
            dead = _wait(*members, timeout_s=left)
            self._reap()
            if journal.member(Word.WORKER)[1] in dead:
                self._worker_ended()
            elif dead:
                self._forget_spare()
            elif time.monotonic() >= self._look_at:
                self._look()
        self._end_last()

    def _end_last(self) -> None:
        """Whoever waits for the pager's end sees the process that was started first go last."""
        for role in (Word.SPARE, Word.WORKER):
            _, process = self._journal.member(role)
            if process and role is Word.SPARE:
                pidfd.kill(process)
            if process:
                pidfd.wait(process, _END_S)
        self._reap()

    def _look(self) -> None:
        """Whether one of the others runs no more, without being dead."""
        self._look_at = time.monotonic() + LOOK_S
        for role, stall in ((Word.WORKER, self._stall), (Word.SPARE, self._spare_stall)):
            pid, process = self._journal.member(role)
            if pid and stall.seen(pid):
                tell_of_stall(role.name.lower())
                pidfd.kill(process)

    # --- being three -----------------------------------------------------------------------------

    def _complete(self) -> None:
        """See to it that we can be watched, and that there is a spare.  Raises OSError."""
        if not self._appointed:
            _, before = self._journal.member(Word.SUPERVISOR)
            with calling("pidfd_open"):
                own = os.pidfd_open(os.getpid())
            self._journal.appoint(Word.SUPERVISOR, os.getpid(), own)
            self._appointed = True
            _close(before)
            self._forget_spare()  # it is dead, or has become this supervisor
        if not self._journal.member(Word.SPARE)[0]:
            self._record_spare(self._make_spare())

    def _try_to_be_complete(self) -> float:
        """The same, after a pause that grows where it fails: seconds until the next look."""
        now = time.monotonic()
        if now >= self._try_at:
            try:
                self._complete()
            except OSError as error:  # no process or descriptor left: serving goes on without
                self._incomplete(error)
            else:
                self._pause = self._try_at = 0.0
        return max(min(self._look_at, self._try_at or self._look_at) - now, 0)

    def _incomplete(self, error: OSError) -> None:
        """Told once, until it has worked again."""
        if not self._pause:
            say(f"no spare pager process: {cause_of(error)}; trying again ({cure_of(error)})")
        self._pause = min(max(2 * self._pause, _RETRY_S), _LONGEST_RETRY_S)
        self._try_at = time.monotonic() + self._pause

    def _make_spare(self) -> _Spare:
        """A process that stands by.  Raises OSError, with nothing left of it."""
        _, self_fd = self._journal.member(Word.SUPERVISOR)
        made: list[int] = []
        spare = _Spare(0, -1, -1, -1)
        try:
            with calling("eventfd2"):
                made.append(os.eventfd(0, os.EFD_CLOEXEC))
            with calling("dup"):
                made.append(os.dup(self_fd))
            spare.call, spare.watch = made
            with calling("clone"):
                spare.pid = fork_sharing_descriptors()
            if spare.pid == 0:
                raise _Become(functools.partial(_stand_by, self._journal, self._serve, spare))
            with calling("pidfd_open"):
                spare.process = os.pidfd_open(spare.pid)
        except OSError:
            if spare.pid:  # first: what it waits for is about to be closed
                os.kill(spare.pid, signal.SIGKILL)
                os.waitpid(spare.pid, 0)
            close_all(made)
            raise
        return spare

    def _record_spare(self, new: _Spare) -> None:
        words = self._words
        words[Word.CALL_FD], words[Word.WATCH_FD] = new.call, new.watch
        self._journal.appoint(Word.SPARE, new.pid, new.process)

    def _forget_spare(self) -> None:
        """It is dead, or has become what it stood by for."""
        words = self._words
        before = [self._journal.member(Word.SPARE)[1], words[Word.CALL_FD], words[Word.WATCH_FD]]
        self._journal.appoint(Word.SPARE, 0, 0)
        words[Word.CALL_FD] = words[Word.WATCH_FD] = 0
        for fd in before:
            _close(fd)

    # --- the next worker -------------------------------------------------------------------------

    def _worker_ended(self) -> None:
        """In peace, or it was killed, or it failed."""
        words = self._words
        if words[Word.RETIRED]:
            return
        status = self._ends.get(self._journal.member(Word.WORKER)[0], 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number in _OWN_DOING:
            say(f"the pager's worker died of signal {number} ({signal.strsignal(number)})")
            words[Word.CRASHES] += 1
        if self._crashes.for_ever() and not self._crashes.end_clients():
            words[Word.RETIRED] = 1
        elif not words[Word.UP] and self._never_comes_up():
            return
        else:
            for fd in self._left_behind():  # it needs as many again
                _close(fd)
            self._ends.clear()
            words[Word.TAKEOVERS] += 1
            self._next_worker()

    def _never_comes_up(self) -> bool:
        """Whether workers are killed before they serve, one after the other."""
        words = self._words
        words[Word.EARLY] += 1
        if words[Word.EARLY] < CRASHES:
            return False
        status = self._ends.get(self._journal.member(Word.WORKER)[0], 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        cause = f"its worker was killed as it started, {CRASHES} times"
        if number:
            cause += f" (signal {number}, {signal.strsignal(number)})"
        cure = "see who kills it: a memory limit, or a seccomp profile that kills (signal 31)"
        refuse(self._journal, PagerError("the pager did not come up", cause=cause, cure=cure))
        return True

    def _next_worker(self) -> None:
        """The spare becomes the worker.  A new one is made before, so that there always is one.

        Where no process can be had, the spare is called without, and where there is no spare, this
        process serves: nobody watches it then, but no thread waits.
        """
        journal, words = self._journal, self._words
        _, before = journal.member(Word.WORKER)
        new: _Spare | None = None
        try:
            self._complete()
            new = self._make_spare()
        except OSError as error:
            self._incomplete(error)
        called, call = journal.member(Word.SPARE), words[Word.CALL_FD]
        if not called[0]:
            self._serve_alone()
        journal.appoint(Word.WORKER, *called)
        if new is not None:
            self._record_spare(new)
        else:
            journal.appoint(Word.SPARE, 0, 0)  # its descriptors are the worker's now
            words[Word.CALL_FD] = words[Word.WATCH_FD] = 0
        os.eventfd_write(call, 1)
        _close(before)

    def _serve_alone(self) -> NoReturn:
        """Be the worker."""
        journal = self._journal
        _, before = journal.member(Word.WORKER)
        while not self._appointed:  # descriptors have just become free
            with contextlib.suppress(OSError):
                journal.appoint(Word.SUPERVISOR, os.getpid(), os.pidfd_open(os.getpid()))
                self._appointed = True
        journal.appoint(Word.WORKER, *journal.member(Word.SUPERVISOR))
        journal.appoint(Word.SUPERVISOR, 0, 0)
        _close(before)
        raise _Become(functools.partial(work, journal, self._serve))

    def _left_behind(self) -> list[int]:
        """Descriptors that the dead worker had open for itself.

        A client that it had accepted a moment before is not among them: its successor has it.
        """
        words = self._words
        ours = {0, 1, 2, self._journal.fd, *descriptors_in(self._journal)}
        ours |= {words[word] for word in Word if word.name.endswith("_FD")}
        ours |= {self._journal.member(role)[1] for role in ROLES}
        left = open_descriptors(max(ours)) - ours
        return sorted(left - accepted(left, kept_in(self._journal)).keys())

    def _reap(self) -> None:
        """Children that have ended, our predecessor's too where we inherit them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ends[ended[0]] = ended[1]


def _stand_by(journal: Journal, serve: Serve, own: _Spare) -> None:
    """The spare: wait until the supervisor calls or is dead."""
    me = os.getpid()
    stall = Stall(IDLE)
    while not _wait(own.call, own.watch, timeout_s=SPARE_LOOK_S):
        if stall.seen(journal.member(Word.SUPERVISOR)[0]):
            tell_of_stall("supervisor")
            pidfd.kill(own.watch)
    if journal.member(Word.WORKER)[0] == me:
        if pidfd.ended(own.watch) and journal.member(Word.SPARE)[0] == me:
            _leave_a_supervisor(journal, serve)
        close_all([own.call, own.watch])
        work(journal, serve)
    elif journal.member(Word.SPARE)[0] == me and journal.serves:
        Supervisor(journal, serve).run()


def _leave_a_supervisor(journal: Journal, serve: Serve) -> None:
    """The supervisor died in the middle of calling us: nobody would watch."""
    journal.appoint(Word.SPARE, 0, 0)  # our descriptors are the worker's now
    journal.words[Word.CALL_FD] = journal.words[Word.WATCH_FD] = 0
    with contextlib.suppress(OSError):  # none to be had: the worker sees that it is alone
        if fork_sharing_descriptors() == 0:
            raise _Become(lambda: Supervisor(journal, serve).run())


def work(journal: Journal, serve: Serve) -> None:
    """Be the worker until there is nobody left to serve."""
    try:
        if still_serves(journal):
            serve(journal)
    except BaseException as error:
        if not journal.words[Word.UP]:
            refuse(journal, error)
        else:
            sys.excepthook(*sys.exc_info())
            journal.words[Word.CRASHES] += 1
        os._exit(1)
    leave(journal)


def leave(journal: Journal) -> NoReturn:
    """The worker ends in peace, and with it the family: the supervisor last.

    But one that is stopped would outlive us, and nobody could tell it.
    """
    journal.words[Word.RETIRED] = 1
    for role in (Word.SPARE, Word.SUPERVISOR):
        pid, process = journal.member(role)
        if pid and (role is Word.SPARE or may_be_stopped(pid)):
            with contextlib.suppress(OSError):
                pidfd.kill(process)
    os._exit(0)  # reader threads may hang in a dead file system: do not wait for them


def still_serves(journal: Journal) -> bool:
    """Whether ours is still the family that serves, after a handover was begun.

    The new process is killed unless it serves already, so that it cannot begin to after this.
    """
    process = journal.words[Word.SUCCESSOR_FD]
    if process and journal.serves:
        pidfd.kill(process)
        pidfd.wait(process, _END_S)
        journal.words[Word.SUCCESSOR_FD] = 0
    return journal.serves


def _wait(*descriptors: int, timeout_s: float | None = None) -> set[int]:
    """Sleep until one of the descriptors is readable; which are."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
    assert not any(event & select.POLLNVAL for _, event in ready), "closed by somebody else"
    return {fd for fd, _ in ready}


def _close(fd: int) -> None:
    """Close what may be closed already; 0 is no descriptor of ours."""
    if fd > 2:
        with contextlib.suppress(OSError):
            os.close(fd)
