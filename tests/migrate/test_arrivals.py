"""What a worker of the pager that asks for pages is told."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading

from helpers.pages import PAGE
from helpers.waiting import wait_until
from userfault.migrate.arrivals import Arrivals
from userfault.migrate.frames import Phase, Refused, pages_head
from userfault.source.pages import ANSWER, REQUEST


def unread(line: socket.socket) -> int:
    """Bytes that were sent and nobody has read (SIOCOUTQ, unix(7))."""
    return int(struct.unpack("i", fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)))[0])


def test_a_worker_that_asks_before_the_sender_is_welcome_waits() -> None:
    """Memory is there, and filled behind, before how many pages will come is settled."""
    arrivals = Arrivals()
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=arrivals.serve, args=(theirs,))
    thread.start()
    with ours:
        ours.sendall(REQUEST.pack(PAGE, PAGE))
        wait_until(lambda: unread(ours) == 0)
        with arrivals.changed:
            arrivals.begin(4)
            arrivals.phase = Phase.RUNNING
            arrivals.zeros(bytearray(pages_head(0, 4)))
            arrivals.changed.notify_all()
        assert ours.recv(ANSWER.size, socket.MSG_WAITALL) == ANSWER.pack(True, PAGE)
        assert ours.recv(PAGE, socket.MSG_WAITALL) == bytes(PAGE)
    thread.join()


def test_a_worker_that_waits_is_told_that_no_sender_will_come() -> None:
    arrivals = Arrivals()
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=arrivals.serve, args=(theirs,))
    thread.start()
    with ours:
        ours.sendall(REQUEST.pack(0, PAGE))
        wait_until(lambda: unread(ours) == 0)
        with arrivals.changed:
            arrivals.failed = Refused("the sender is lost", "it was away")
            arrivals.changed.notify_all()
        good, length = ANSWER.unpack(ours.recv(ANSWER.size, socket.MSG_WAITALL))
        assert not good
        assert ours.recv(length, socket.MSG_WAITALL) == b"the sender is lost: it was away"
    thread.join()
