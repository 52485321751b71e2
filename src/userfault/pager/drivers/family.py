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
import dataclasses
import functools
import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from userfault.linux import pidfd
from userfault.linux.clone import fork_sharing_descriptors
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.journal import Journal, Word
from userfault.pager.drivers.records import descriptors_in
from userfault.pager.drivers.say import say
from userfault.pager.drivers.stall import LOOK_S, Stall

CRASHES = 3  # a worker that fails so often ...
CRASH_SPAN_S = 10.0  # ... within so many seconds will fail for ever
_END_S = 10.0  # how long a killed process may take to end
_RETRY_S = 0.05  # when no process can be had

ROLES = (Word.WORKER, Word.SUPERVISOR, Word.SPARE)

Serve = Callable[[Journal], None]


@dataclasses.dataclass
class _Spare:
    """A spare: process id and pidfd, the eventfd that calls it, its pidfd of the supervisor."""

    pid: int
    process: int
    call: int
    watch: int


def found(journal: Journal, serve: Serve, begin: Callable[[], None]) -> NoReturn:
    """Become the supervisor of a new family whose workers run `serve`.

    `begin` is called when there is a spare, and before there is a worker.
    """
    _run(lambda: Supervisor(journal, serve).run(begin))


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
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


class Supervisor:
    """Watches the worker and the spare, and replaces them."""

    def __init__(self, journal: Journal, serve: Serve) -> None:
        self._journal = journal
        self._words = journal.words
        self._serve = serve
        self._crashes: list[float] = []
        self._crashed = self._words[Word.CRASHES]
        self._stall = Stall()

    def run(self, begin: Callable[[], None] | None = None) -> None:
        """Watch until the worker says that nobody is left to serve."""
        journal, words = self._journal, self._words
        _, before = journal.member(Word.SUPERVISOR)
        journal.appoint(Word.SUPERVISOR, os.getpid(), os.pidfd_open(os.getpid()))
        _close(before)
        self._replace_spare()
        if begin is not None:
            begin()
        if not words[Word.WORKER]:
            self._call_spare()
        while not words[Word.RETIRED]:
            _, worker = journal.member(Word.WORKER)
            _, spare = journal.member(Word.SPARE)
            dead = _wait(worker, spare, timeout_s=LOOK_S)
            self._reap()
            if worker in dead:
                self._worker_ended()
            elif spare in dead:
                self._replace_spare()
            elif self._stall.seen(journal.member(Word.WORKER)[0]):
                say("the pager's worker is stuck (stopped, or in one system call): replacing it")
                pidfd.kill(worker)
        pidfd.kill(journal.member(Word.SPARE)[1])

    def _worker_ended(self) -> None:
        """In peace, or it was killed, or it failed."""
        words = self._words
        if words[Word.RETIRED]:
            return
        if self._fails_for_ever():
            self._end_client()
            return
        garbage = self._left_behind()
        words[Word.TAKEOVERS] += 1
        self._call_spare()
        for fd in garbage:
            _close(fd)

    def _fails_for_ever(self) -> bool:
        """Whether workers end by errors of their own, one after the other."""
        crashes = self._words[Word.CRASHES]
        if crashes == self._crashed:
            return False
        self._crashed = crashes
        now = time.monotonic()
        self._crashes = [when for when in self._crashes if now - when < CRASH_SPAN_S] + [now]
        return len(self._crashes) >= CRASHES

    def _end_client(self) -> None:
        """The pager fails again and again: the client must not wait for ever, nor read zeros."""
        say(f"the pager failed {CRASHES} times (see above); ending the client")
        pidfd.kill(self._words[Word.CLIENT_FD])
        self._words[Word.RETIRED] = 1

    def _call_spare(self) -> None:
        """The spare becomes the worker.  A new one is made before, so that there always is one."""
        journal = self._journal
        _, before = journal.member(Word.WORKER)
        called, call = journal.member(Word.SPARE), self._words[Word.CALL_FD]
        new = self._make_spare()
        journal.appoint(Word.WORKER, *called)
        self._record_spare(new)
        os.eventfd_write(call, 1)
        _close(before)

    def _replace_spare(self) -> None:
        """A spare in place of one that is dead, or has become this supervisor."""
        words = self._words
        before = [self._journal.member(Word.SPARE)[1], words[Word.CALL_FD], words[Word.WATCH_FD]]
        self._record_spare(self._make_spare())
        for fd in before:
            _close(fd)

    def _record_spare(self, new: _Spare) -> None:
        words = self._words
        words[Word.CALL_FD], words[Word.WATCH_FD] = new.call, new.watch
        self._journal.appoint(Word.SPARE, new.pid, new.process)

    def _make_spare(self) -> _Spare:
        """A process that stands by; waits until one can be had."""
        _, self_fd = self._journal.member(Word.SUPERVISOR)
        while True:
            made: list[int] = []
            try:
                made.append(os.eventfd(0, os.EFD_CLOEXEC))
                made.append(os.dup(self_fd))
                spare = _Spare(0, -1, *made)
                spare.pid = fork_sharing_descriptors()
                if spare.pid == 0:
                    raise _Become(functools.partial(_stand_by, self._journal, self._serve, spare))
                spare.process = os.pidfd_open(spare.pid)
            except OSError as error:  # no process or descriptor left: serving goes on without
                close_all(made)
                say(f"no spare pager process: {os.strerror(error.errno or 0)}; trying again")
                time.sleep(_RETRY_S)
            else:
                return spare

    def _left_behind(self) -> list[int]:
        """Descriptors that the dead worker had open for itself."""
        words = self._words
        # The descriptor of the listing itself is in it, and its number will soon be another's.
        held = {fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)}
        ours = {0, 1, 2, self._journal.fd, *descriptors_in(self._journal)}
        ours |= {words[word] for word in Word if word.name.endswith("_FD")}
        ours |= {self._journal.member(role)[1] for role in ROLES}
        return sorted(held - ours)

    def _reap(self) -> None:
        """Children that have ended, our predecessor's too where we inherit them."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _stand_by(journal: Journal, serve: Serve, own: _Spare) -> None:
    """The spare: wait until the supervisor calls or is dead."""
    me = os.getpid()
    _wait(own.call, own.watch)
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
    if fork_sharing_descriptors() == 0:
        raise _Become(lambda: Supervisor(journal, serve).run())


def work(journal: Journal, serve: Serve) -> None:
    """Be the worker until there is nobody left to serve."""
    try:
        if still_serves(journal):
            serve(journal)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        journal.words[Word.CRASHES] += 1
        os._exit(1)
    leave(journal)


def leave(journal: Journal) -> NoReturn:
    """The worker ends in peace, and with it the family."""
    journal.words[Word.RETIRED] = 1
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


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _close(fd: int) -> None:
    """Close what may be closed already; 0 is no descriptor of ours."""
    if fd > 2:
        with contextlib.suppress(OSError):
            os.close(fd)
