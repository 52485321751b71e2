"""The main program of a pager that serves the process which made it."""

from __future__ import annotations

import socket

from userfault.pager.drivers import program
from userfault.pager.drivers.worker import serve


def main(channel: socket.socket) -> None:
    """`channel`: the socket to the client, whose first packet is a `messages.Hello`."""
    program.main(channel, serve)


def succeed(channel: socket.socket) -> None:
    """The main program of a pager that takes over from another; `channel`: to its worker."""
    program.succeed(channel, serve)
