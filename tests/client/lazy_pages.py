"""A `criu lazy-pages` in a few lines, which can be told to do one thing wrong.

    python lazy_pages.py SOCKET FILE ADDRESS TASKS [FLAW]

Every task has the bytes of FILE at ADDRESS, and zeros elsewhere; TASKS of them live.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys

from userfault.kernel.errors import KernelError
from userfault.kernel.events import Fork, PageFault, Remap, Remove
from userfault.linux import pidfd
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd

PAGE = 4096
FINISHED = 0x52535446

FLAWS = (
    "",
    "zeros",  # for each page
    "forgets forks",  # serves no child
    "ignores remaps",  # looks where memory was
    "ignores removes",  # the image's bytes again
    "closes",  # takes the connection, and ends it
)


class Space:
    """One address space: where pages of the image are."""

    def __init__(self, uffd: LiveUserfaultfd, pages: dict[int, int]) -> None:
        self.uffd = uffd
        self.pages = pages  # address of a page: its offset in the image

    def fill(self, address: int, content: bytes, spaces: dict[int, Space], flaw: str) -> None:
        """Until no event is in the way; a process that has ended needs none."""
        address -= address % PAGE
        while True:
            offset = self.pages.get(address)
            page = bytes(PAGE) if offset is None else content[offset : offset + PAGE]
            with Pinned(page) as pinned:
                try:
                    self.uffd.copy(address, pinned.address, PAGE)
                    return
                except KernelError as error:
                    if error.errno == errno.EEXIST:
                        self.uffd.wake(address, PAGE)
                    if error.errno != errno.EAGAIN:  # else an event comes first
                        return
            self.read(content, spaces, flaw)

    def read(self, content: bytes, spaces: dict[int, Space], flaw: str) -> None:
        """Events at once, faults after them."""
        faults = []
        for event in self.uffd.read():
            if isinstance(event, Fork) and flaw != "forgets forks":
                child = Space(event.userfaultfd, dict(self.pages))
                spaces[child.uffd.fileno()] = child
            elif isinstance(event, Remap) and flaw != "ignores remaps":
                for at in range(0, event.length, PAGE):
                    if event.old + at in self.pages:
                        self.pages[event.new + at] = self.pages.pop(event.old + at)
            elif isinstance(event, Remove) and flaw != "ignores removes":
                for address in range(event.start, event.end, PAGE):
                    self.pages.pop(address, None)
            elif isinstance(event, PageFault):
                faults.append(event.address)
            elif isinstance(event, Fork):
                kept.append(event)
        for address in faults:
            self.fill(address, content, spaces, flaw)


kept: list[Fork[LiveUserfaultfd]] = []  # of children that nobody serves


def main() -> None:
    path, image, flaw = sys.argv[1], sys.argv[2], sys.argv[5]
    address, tasks = int(sys.argv[3]), int(sys.argv[4])
    assert flaw in FLAWS
    with open(image, "rb") as file:
        content = file.read() if flaw != "zeros" else bytes(os.fstat(file.fileno()).st_size)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    print("ready", flush=True)
    channel, _ = listening.accept()
    if flaw == "closes":
        channel.close()
        return
    spaces: dict[int, Space] = {}
    poll = select.poll()
    word = b""
    open_ = True
    while True:
        ready = {fd for fd, _ in poll.poll(5)}
        for fd in [each for each in spaces if each in ready]:
            spaces[fd].read(content, spaces, flaw)
        for fd in spaces:
            poll.register(fd, select.POLLIN)
        if not open_ or not select.select([channel], [], [], 0)[0]:
            continue
        received = pidfd.receive(channel, 4 - len(word) if tasks or word else 4, 1)
        if received.fds:
            pages = {address + at: at for at in range(0, len(content), PAGE)}
            space = Space(LiveUserfaultfd.adopt(received.fds[0]), pages)
            spaces[space.uffd.fileno()] = space
            poll.register(space.uffd.fileno(), select.POLLIN)
            tasks -= 1
        elif received.data:
            word += received.data
            if len(word) == 4:
                open_ = int.from_bytes(word, "little") != FINISHED
                word = b""
        else:
            open_ = False


if __name__ == "__main__":
    main()
