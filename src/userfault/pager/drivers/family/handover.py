"""One family hands over to another: new code, or a worker that was left alone.

The worker starts a new process and serves on while it comes up.  Then it stops, records what it
serves, sends every descriptor, and waits.  The new process writes the record anew, with its own
numbers, into words of its own (`Journal.inherit`), makes its spare, and then stores one word, which
says that the new family serves.  Until that store the old one takes back its work if the new one
fails; after it the old one ends.  Nobody reads a message in between: they stay in the kernel.

A worker that is killed while it waits leaves SUCCESSOR_FD: whoever comes after it kills the new
process before it looks who serves (`supervisor.still_serves`), so that there are never two.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import NoReturn

import msgspec

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.family import supervisor
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word

READY_S = 30.0  # how long a new interpreter may take to come up
TAKEN_S = 8.0  # and how long to take over once it is
_PACKET = 200  # descriptors; SCM_MAX_FD is 253 (unix(7))
_MAX_MESSAGE = 1 << 16


Asked = tuple[int, int]  # a client and the serial of its request; zeros where nobody asked


class Successor:
    """The new process, seen by the worker that hands over."""

    def __init__(self, journal: Journal, program: str) -> None:
        """Start it: the module `program`.  Raises PagerError."""
        self._journal = journal
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = spawn_python(program, "succeed", theirs.fileno(), lean_path())
                self.process = os.pidfd_open(self.pid)
            except (OSError, PagerError):
                ours.close()
                raise
        self.channel = ours

    def ready(self) -> bool:
        """Take its word that it has come up; False when it ended instead."""
        with contextlib.suppress(OSError):
            return bool(self.channel.recv(_MAX_MESSAGE))
        return False

    def hand_over(self, asked: Asked) -> bool:
        """Send everything, wait: whether the new family serves.  The caller serves nothing.

        `asked`: what the new family must not carry out again.
        """
        journal = self._journal
        journal.words[Word.SUCCESSOR_FD] = self.process  # see supervisor.still_serves
        with contextlib.suppress(OSError):
            _send_descriptors(self.channel, journal, asked)
            poll = select.poll()
            poll.register(self.process, select.POLLIN)
            poll.register(self.channel, select.POLLIN)
            poll.poll(TAKEN_S * 1000)
        return not supervisor.still_serves(journal)

    def close(self) -> None:
        """Forget it: it serves, or it has ended."""
        self.channel.close()
        os.close(self.process)


def _send_descriptors(channel: socket.socket, journal: Journal, asked: Asked) -> None:
    """All that the family holds, each with its number; an empty packet ends it."""
    words = journal.words
    outside = [journal.fd, words[Word.STATUS_FD]]
    elders = [journal.member(role)[1] for role in (Word.SPARE, Word.SUPERVISOR, Word.WORKER)]
    held = sorted({*outside, *elders, *records.descriptors_in(journal)} - {0, -1})
    header = [*asked, *outside, *elders]
    channel.send(msgspec.msgpack.encode(header))
    for at in range(0, len(held), _PACKET):
        part = held[at : at + _PACKET]
        socket.send_fds(channel, [msgspec.msgpack.encode(part)], part)
    channel.send(msgspec.msgpack.encode([]))


def succeed(
    channel: socket.socket, serve: supervisor.Serve, settle_in: Callable[[], None]
) -> NoReturn:
    """The new process: take everything over, then be the supervisor of a new family.

    `settle_in`: called once nothing more needs to be loaded.
    """
    try:
        channel.send(b"ready")
        header, numbers = _receive_descriptors(channel)
    except ConnectionError:  # the worker was killed: another one serves
        os._exit(1)
    client, serial, its_journal, status, *elders = header
    journal = Journal(numbers[its_journal], coming=True)
    journal.inherit()
    journal.words[Word.STATUS_FD] = numbers.get(status, 0)
    journal.commit(records.renumbered(journal, lambda fd: numbers.get(fd, -1), (client, serial)))
    settle_in()
    elders = [numbers[fd] for fd in elders if fd in numbers]  # pidfds, the worker's last
    supervisor.found(journal, serve, lambda: _take(journal, channel, elders), _not_taken)


def _not_taken(error: BaseException) -> None:
    """The old family serves on; its client hears that this one has ended."""
    say(f"the new pager cannot take over: {error}")


def _take(journal: Journal, channel: socket.socket, elders: list[int]) -> None:
    """Supervisor and spare stand: from here on the new family serves, and the old one goes."""
    journal.serve()
    channel.close()  # the worker that handed over sees it, answers its client and ends
    if elders:
        pidfd.wait(elders[-1], TAKEN_S)
    for process in elders:
        pidfd.kill(process)
        pidfd.wait(process, TAKEN_S)
    close_all(elders)


def _receive_descriptors(channel: socket.socket) -> tuple[list[int], dict[int, int]]:
    """The header, and the number here of each descriptor by its number there."""
    data = channel.recv(_MAX_MESSAGE)
    if not data:
        os._exit(1)  # the worker has changed its mind, or died
    header = msgspec.msgpack.decode(data, type=list[int])
    numbers: dict[int, int] = {}
    while True:
        data, fds, lost, _ = pidfd.receive(channel, _MAX_MESSAGE, _PACKET)
        if not data:
            os._exit(1)
        part = msgspec.msgpack.decode(data, type=list[int])
        if not part:
            return header, numbers
        if lost or len(fds) != len(part):
            raise PagerError(
                "the new pager cannot take over",
                cause="it has no descriptor left",
                cure="raise `ulimit -n`",
            )
        numbers.update(zip(part, fds, strict=True))
