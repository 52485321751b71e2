"""The main program of the process that answers write-protect faults of tracked memory.

It lifts the protection of every page that somebody waits to write, and protects what its client
asks for.  It keeps no record: what is protected is in the client's page tables.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket

from userfault.api.helper import answer, served
from userfault.api.track_modes import RANGE
from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault
from userfault.linux.uffd import LiveUserfaultfd


def main(channel: socket.socket) -> None:
    """`channel`: its first packet brings the userfaultfd and the size of the memory's pages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = served(channel)
    if first is None:
        return
    data, fds = first
    page_size, _ = RANGE.unpack(data)
    uffd = LiveUserfaultfd.adopt(fds[0])
    answer(channel, b"\0")
    poll = select.poll()
    poll.register(uffd, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if uffd.fileno() in ready:
            _let_write(uffd, page_size)
        if channel.fileno() in ready and not _protect(channel, uffd):
            return


def _let_write(uffd: LiveUserfaultfd, page_size: int) -> None:
    for event in uffd.read():
        if isinstance(event, PageFault):
            page = event.address // page_size * page_size
            with contextlib.suppress(KernelError):  # it was unmapped: its waiters are gone
                uffd.writeprotect(page, page_size, protect=False)


def _protect(channel: socket.socket, uffd: LiveUserfaultfd) -> bool:
    """Whether there was a request; the answer is an errno, or 0."""
    request = served(channel)
    if request is None:
        return False
    code = 0
    for start, length in RANGE.iter_unpack(request[0]):
        try:
            uffd.writeprotect(start, length, protect=True)
        except KernelError as error:
            code = error.errno
            break
    answer(channel, code.to_bytes(4, "little"))
    return True
