"""A guest as the host of a program's agents (check/live/host.py)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator

from userfault.check.live.link import Link
from userfault.lab.guest import Guest
from userfault.lab.image import DISK


class GuestHost:
    """For one program; `close()` ends its agents, and the guest goes on."""

    def __init__(self, guest: Guest, memfds: str = "") -> None:
        self._guest = guest
        self.memfds = memfds
        self._generation = guest.generation

    release = property(lambda self: self._guest.release)
    patience_s = 0.004  # a call that does not sleep is done by then
    directory = property(lambda _self: DISK)

    def spawn(self) -> tuple[int, Link]:
        channel = self._guest.spawn()
        return channel.pid, Link(channel)

    def callback_address(self) -> bytes:
        name = f"\0userfault-lab-{self._generation}".encode()
        return struct.pack("=H", socket.AF_UNIX) + name

    def callers(self) -> Iterator[tuple[int, Link]]:
        port = self._guest.port
        port.receive()
        while port.called:
            channel = port.called.popleft()
            yield channel.pid, Link(channel)

    def wait(self, links: Iterable[Link], timeout_s: float) -> bool:
        return self._guest.port.wait(timeout_s, links)

    def status(self, pid: int) -> int | None:
        for channel in self._guest.port.channels.values():
            if channel.pid == pid and channel.status is not None:
                return os.waitstatus_to_exitcode(channel.status)
        return None

    def hugepages(self, page_size: int, pages: int) -> None:
        self._guest.hugepages(page_size, pages)

    def swap(self) -> None:
        self._guest.swap()

    def close(self) -> None:
        self._guest.reset()
