"""The main program of a pager: take what the client hands over, found the family."""

from __future__ import annotations

import codecs
import gc
import os
import signal
import socket
import sys

import msgspec

from userfault.linux import pidfd
from userfault.pager.drivers import family, handover, messages, records
from userfault.pager.drivers.journal import Journal, Word
from userfault.pager.drivers.live import LiveDriver
from userfault.pager.drivers.say import Errors

_HELLO = 4096  # bytes of the first packet


def main(channel: socket.socket) -> None:
    """`channel`: the socket to the client, whose first packet is a `messages.Hello`."""
    _set_up()
    data, fds, *_ = pidfd.receive(channel, _HELLO, 2)
    if len(fds) < 2:
        return  # the client died before it could introduce itself
    journal = Journal.create()
    hello = msgspec.msgpack.decode(data, type=messages.Hello)
    journal.commit(records.encode(records.FamilyRecord(hello)))
    journal.words[Word.CLIENT_FD], journal.words[Word.STATUS_FD] = fds
    journal.words[Word.CHANNEL_FD] = os.dup(channel.fileno())
    channel.close()  # this number is passed on to every process that we start
    _settle_in()
    family.found(journal, serve, _nothing)


def succeed(channel: socket.socket) -> None:
    """The main program of a pager that takes over from another; `channel`: to its worker."""
    _set_up()
    handover.succeed(channel, serve, _settle_in)


def serve(journal: Journal) -> None:
    """The worker's work."""
    journal.take_up()
    family_record, mappings = records.read(journal)
    driver = LiveDriver(journal, family_record)
    if family_record.numbers or journal.words[Word.TAKEOVERS]:
        driver.resume(mappings)
    driver.run()


def _set_up() -> None:
    sys.stderr = Errors()  # what Python says there may not block either
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our own session has none; a user may send one
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _settle_in() -> None:
    """Everything is loaded.

    What the loop makes dies by reference counting; a collection in the middle of a fault would only
    add a pause.  Frozen, what is loaded so far stays shared by the whole family.
    """
    codecs.lookup("ascii")  # what the files of /proc are read with would be imported on first use
    gc.freeze()
    gc.disable()


def _nothing() -> None:
    """Nothing has to be done before the first worker."""
