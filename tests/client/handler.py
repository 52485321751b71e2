"""A handler of Firecracker's handshake in a few lines, which can be told to do one thing wrong.

    python handler.py SOCKET IMAGE [FLAW]

It serves one client after the other, each in a process of its own, a page a fault, and says
`ready` when it listens.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import Any

from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault, Remove
from userfault.linux import pidfd
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd

PAGE = 4096
FLAW_AT = 5  # the page of the memory at which it goes wrong
WRITES_AT = 100  # the fault at which it writes over the pages before

FLAWS = (
    "",
    "one byte",  # a byte of a page is another one
    "zeros",  # a page of zeros where the image's is due
    "neighbour",  # the next page's bytes
    "ignores removes",  # answers them with the image's bytes
    "writes over",  # puts the image's bytes again where the client may have written
    "hangs",  # never answers one page
    "talks",  # writes into the socket
    "ends",  # kills the client
    "closes",  # does not take its message
    "poisons",  # gives one page up
)


class Handler:
    """One client's."""

    def __init__(self, image: mmap.mmap, flaw: str) -> None:
        self._image = image
        self._flaw = flaw
        self._removed: set[int] = set()
        self._faults: deque[int] = deque()
        self._answered: list[tuple[int, int]] = []  # address, offset

    def serve(self, channel: socket.socket) -> None:
        """Until it has ended."""
        if self._flaw == "closes":
            channel.close()
            return
        received = pidfd.receive(channel, 1 << 16, 1)
        regions: list[dict[str, Any]] = json.loads(received.data)
        uffd = LiveUserfaultfd.adopt(received.fds[0])
        client = os.pidfd_open(pidfd.peer(channel))
        if self._flaw == "talks":
            channel.send(b"hello")
        poll = select.poll()
        for fd in (client, uffd.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if client in ready:
                return
            self._read(uffd)
            while self._faults:
                self._fill(uffd, regions, self._faults.popleft(), client)

    def _read(self, uffd: LiveUserfaultfd) -> None:
        """Removes count at once, faults in turn."""
        for event in uffd.read():
            if isinstance(event, Remove):
                self._removed.update(range(event.start, event.end, PAGE))
            elif isinstance(event, PageFault):
                self._faults.append(event.address)

    def _fill(
        self, uffd: LiveUserfaultfd, regions: list[dict[str, Any]], address: int, client: int
    ) -> None:
        address -= address % PAGE
        region = next(
            each
            for each in regions
            if each["base_host_virt_addr"] <= address < each["base_host_virt_addr"] + each["size"]
        )
        offset = address - region["base_host_virt_addr"] + region["offset"]
        wrong = offset // PAGE == FLAW_AT
        if wrong and self._flaw == "hangs":
            return
        if wrong and self._flaw == "ends":
            signal.pidfd_send_signal(client, signal.SIGKILL)
            return
        page = bytearray(self._image[offset : offset + PAGE].ljust(PAGE, b"\0"))
        if address in self._removed and self._flaw != "ignores removes":
            page = bytearray(PAGE)
        elif wrong and self._flaw == "one byte":
            page[1234] ^= 1
        elif wrong and self._flaw == "zeros":
            page = bytearray(PAGE)
        elif wrong and self._flaw == "neighbour":
            page = bytearray(self._image[offset + PAGE : offset + 2 * PAGE])
        self._answer(uffd, address, page, poison=wrong and self._flaw == "poisons")
        self._answered.append((address, offset))
        if self._flaw == "writes over" and len(self._answered) == WRITES_AT:
            self._write_over(pidfd.pid_of(client))

    def _write_over(self, pid: int) -> None:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for address, offset in self._answered[:-1]:
                memory.seek(address)
                memory.write(self._image[offset : offset + PAGE])

    def _answer(
        self, uffd: LiveUserfaultfd, address: int, page: bytearray, *, poison: bool
    ) -> None:
        """Again while an event is pending, which is read at the next turn."""
        with Pinned(page) as pinned:
            while True:
                try:
                    if poison:
                        uffd.poison(address, PAGE)
                    else:
                        uffd.copy(address, pinned.address, PAGE)
                    return
                except KernelError as error:
                    if error.errno == errno.EEXIST:  # a thread beside was quicker
                        uffd.wake(address, PAGE)
                        return
                    if error.errno != errno.EAGAIN:
                        return
                    self._read(uffd)
                    if address in self._removed and self._flaw != "ignores removes":
                        page[:] = bytes(PAGE)


def main() -> None:
    path, image, flaw = sys.argv[1], sys.argv[2], sys.argv[3]
    assert flaw in FLAWS
    with open(image, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        channel, _ = listening.accept()
        if not os.fork():
            listening.close()
            try:
                Handler(mapped, flaw).serve(channel)
            finally:
                os._exit(0)
        channel.close()


if __name__ == "__main__":
    main()
