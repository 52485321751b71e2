"""The main program of a pager: take what its client hands over, found the family.

What the family's workers run, and what more is handed over, is told by who calls this.
"""

from __future__ import annotations

import codecs
import errno
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux import pidfd
from userfault.linux.descriptors import allow_all
from userfault.linux.refused import CallRefusedError, calling
from userfault.pager.drivers.family import handover, supervisor
from userfault.pager.drivers.family.coming_up import refuse, refuse_on
from userfault.pager.drivers.processes.say import Errors
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.wire import messages
from userfault.version import __version__

_HELLO = 4096  # bytes of the first packet
# Within which a thread that has read what a fault waits for gets the GIL from one that is busy in
# Python, such as a worker that fills what nobody has asked for yet; with Python's own 5 ms a first
# touch took 17 ms instead of 6 (measured on 6.18 with Python 3.11).
_SWITCH_S = 0.0003

More = Callable[[socket.socket, records.FamilyRecord], None]


def _nothing_more(channel: socket.socket, record: records.FamilyRecord) -> None:
    """A pager needs no more than the first packet."""
    del channel, record


def main(channel: socket.socket, serve: supervisor.Serve, more: More = _nothing_more) -> None:
    """`channel`: the socket to the client, whose first packet is a `messages.Hello`.

    `more`: receives what else is handed over, and puts it into the first record.
    """
    _set_up()
    try:
        journal = _introduced(channel, more)
        _settle_in()
    except (OSError, UserfaultError, MemoryError) as error:
        refuse_on(channel.fileno(), error)
        os._exit(1)
    if journal is not None:
        channel.close()  # this number is passed on to every process that we start
        supervisor.found(journal, serve, _nothing, functools.partial(refuse, journal))


def _introduced(channel: socket.socket, more: More) -> Journal | None:
    """Take the client's first packet; None when it died before it could send it."""
    data, fds, lost, _ = pidfd.receive(channel, _HELLO, 3)
    if lost:
        raise CallRefusedError("recvmsg", errno.EMFILE)
    if len(fds) < 2:
        return None
    hello = msgspec.msgpack.decode(data, type=messages.Hello)
    if hello.version != __version__:
        raise PagerError(
            f"this Python ({sys.executable})",
            cause=f"it has userfault {__version__}, and the program has {hello.version}",
            cure="install the same version there",
        )
    journal = Journal.create()
    words = journal.words
    process, words[Word.STATUS_FD] = fds[:2]
    words[Word.STDERR_FD] = fds[2] if len(fds) > 2 else os.open(os.devnull, os.O_WRONLY)
    with calling("fcntl(F_DUPFD_CLOEXEC)"):
        words[Word.CHANNEL_FD] = os.dup(channel.fileno())
    client = records.ClientRecord(1, process, words[Word.CHANNEL_FD])
    clients = [msgspec.Raw(records.encode(client))]
    record = records.FamilyRecord(hello, people=1, clients=clients)
    more(channel, record)
    journal.commit(records.encode(record))
    _try_signals()
    return journal


def _try_signals() -> None:
    """Whoever would wait for ever must be ended: better not begin where that is forbidden."""
    with calling("pidfd_open"):
        process = os.pidfd_open(os.getpid())
    try:
        with calling("pidfd_send_signal"):
            signal.pidfd_send_signal(process, 0)
    finally:
        os.close(process)


def succeed(channel: socket.socket, serve: supervisor.Serve) -> None:
    """The main program of a pager that takes over from another; `channel`: to its worker."""
    _set_up()
    handover.succeed(channel, serve, _settle_in)


def _set_up() -> None:
    sys.stderr = Errors()  # what Python says there may not block either
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our own session has none; a user may send one
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _settle_in() -> None:
    """Everything is loaded.

    What the loop makes dies by reference counting; a collection in the middle of a fault would only
    add a pause.  Frozen, what is loaded so far stays shared by the whole family.
    """
    allow_all()  # before there is a family: each process has its own limit, and all one table
    sys.setswitchinterval(_SWITCH_S)
    codecs.lookup("ascii")  # what the files of /proc are read with would be imported on first use
    gc.freeze()
    gc.disable()


def _nothing() -> None:
    """Nothing has to be done before the first worker."""
