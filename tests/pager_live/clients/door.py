"""A pager with a door: whoever connects is a client.  And the client's end of such a connection.

This is what a daemon does, with the parts of the worker and nothing in their place.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import userfault
from helpers import child
from userfault.api.asking import ask as _ask
from userfault.api.asking import hung_up as _hung_up
from userfault.api.starting import Family
from userfault.api.undisturbed import Tie
from userfault.linux import pidfd
from userfault.pager.drivers.family.supervisor import found
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.record.records import FamilyRecord, encode
from userfault.pager.drivers.record.status import ROLES, Shown, Status
from userfault.pager.drivers.wire import messages
from userfault.pager.drivers.worker import Worker

_UP_S = 60.0


# --- the pager ------------------------------------------------------------------------------------


def serve_whoever_connects(path: str, control: int, shown: int, planted: bool) -> NoReturn:
    """Found a family; it ends when everybody has left and the test has closed `control`.

    `planted`: an error in the worker, of which it dies whenever a client asks for a handover.
    """
    journal = Journal.create()
    journal.words[Word.STATUS_FD] = shown
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        kept = [os.dup(listener.fileno()), os.dup(control)]
    journal.commit(encode(FamilyRecord(messages.Hello(), kept=kept)))
    found(journal, _serve_with_error if planted else _serve, lambda: None, _refused)


def _serve(journal: Journal) -> None:
    worker = Worker(journal)
    worker.run(Door(worker))


def _serve_with_error(journal: Journal) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker(journal)

    def replace(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    worker.clients.replace = replace  # type: ignore[method-assign, assignment]
    worker.run(Door(worker))


def _refused(error: BaseException) -> None:
    print(error, file=sys.stderr)


class Door:
    """True as long as somebody may come, or is there."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        listener, self._control = worker.book.kept
        self._open = True
        self._listener = socket.socket(fileno=listener)
        worker.loop.watch(listener, self._somebody)
        worker.loop.watch(self._control, self._closed)

    def __bool__(self) -> bool:
        return self._open or bool(self._worker.book.clients)

    def _somebody(self) -> None:
        channel, _ = self._listener.accept()
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        pid = pidfd.peer(channel)
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            channel.close()
            return
        self._worker.clients.add(channel, process, f"process {pid}: ")

    def _closed(self) -> None:
        self._worker.loop.forget(self._control)
        self._open = False


# --- the test's end -------------------------------------------------------------------------------


class Opened:
    """A pager with a door at `path`, as the test holds it."""

    def __init__(self, path: Path, control: socket.socket, status: Status) -> None:
        self.path = str(path)
        self._control = control
        self._status = status

    @property
    def takeovers(self) -> int:
        """How often a worker had to go on for another."""
        return self._status.words[Shown.TAKEOVERS]

    def member(self, role: Shown, *, but: int = 0) -> int:
        """Who has the role, once somebody other than `but` has."""
        deadline = time.monotonic() + _UP_S
        while (pid := self._status.words[role]) in (0, but):
            assert time.monotonic() < deadline, f"nobody is the {role.name}"
            time.sleep(0.002)
        return pid

    def kill_worker(self, number: int = signal.SIGKILL) -> None:
        """Kill it, and wait until another one serves."""
        victim = self.member(Shown.WORKER)
        os.kill(victim, number)
        self.member(Shown.WORKER, but=victim)

    def close(self) -> None:
        """Nobody comes any more."""
        self._control.close()


@contextlib.contextmanager
def opened(path: Path, *, planted: bool = False) -> Iterator[Opened]:
    """A pager with a door at `path`; at the end it has to end by itself."""
    status, shown = Status.create()
    ours, theirs = socket.socketpair()
    scene = f"{__name__}:serve_whoever_connects"
    process = child.start(
        scene, str(path), theirs.fileno(), shown, planted, pass_fds=[theirs.fileno(), shown]
    )
    theirs.close()
    os.close(shown)
    pager = Opened(path, ours, status)
    try:
        deadline = time.monotonic() + _UP_S
        while not path.exists() or not status.words[Shown.WORKER]:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield pager
        pager.close()
        process.communicate(timeout=_UP_S)  # every process of the family has its standard error
    finally:
        pager.close()
        for role in reversed(ROLES):
            with contextlib.suppress(ProcessLookupError):
                if status.words[role] and process.returncode is None:
                    os.kill(status.words[role], signal.SIGKILL)
        status.close()
        process.communicate()


# --- a client's end -------------------------------------------------------------------------------


class Connected(userfault.Pager):
    """The client's end of a pager that other processes have too."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__()

    def _start(self, *_: object) -> None:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.connect(self._path)
        status, shown = Status.create()
        os.close(shown)
        rights = os.geteuid(), os.getegid()
        self._family = Family(channel, status, (0, -1), os.getpid(), rights)
        self._held = _Connection(self._family)  # type: ignore[assignment]
        self._tie = Tie(self, self._held)


class _Connection:
    """It ends by being told to, and hangs up then, while the pager goes on."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self.open = True
        self.left = False

    def end(self, *, gone: bool) -> None:
        """Quit, and wait for the hang-up."""
        del gone
        self.open = False
        _ask(self._family, 0, messages.Quit(), [])
        assert _hung_up(self._family.channel, _UP_S)
        self.forked()

    def forked(self) -> None:
        """Close what is held here."""
        self.left = True
        self._family.channel.close()
        self._family.status.close()
