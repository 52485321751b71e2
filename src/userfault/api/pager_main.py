"""The main program of a pager process: take the client's pidfd, serve until nobody is left."""

from __future__ import annotations

import gc
import os
import signal
import socket

import msgspec

from userfault.pager.drivers.live import LiveDriver
from userfault.pager.drivers.messages import Hello


def main(channel: socket.socket) -> None:
    """`channel`: the socket to the client, whose first packet carries its pidfd."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our own session has none; a user may send one
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    data, fds, _, _ = socket.recv_fds(channel, 1024, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        return  # the client died before it could introduce itself
    # What the loop makes dies by reference counting; a collection in the middle of a fault would
    # only add a pause.
    gc.freeze()
    gc.disable()
    hello = msgspec.msgpack.decode(data, type=Hello)
    LiveDriver(channel, fds[0], hello.in_flight).run()
    os._exit(0)  # reader threads may hang in a dead file system: do not wait for them
