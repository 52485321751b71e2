"""A guest that is up: agents on request, files of its /proc and /sys, huge pages, a pulse.

Whatever becomes of the guest, nothing here waits for ever: a machine that has died or hangs is a
GuestLost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from userfault.check.live.link import Buffered, Link
from userfault.check.live.steps import requests
from userfault.check.live.wire import CONTROL, Reply, Step
from userfault.check.words.outcome import Lost
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import size_name
from userfault.lab import image
from userfault.lab.channels import Channel, Kind, Port
from userfault.lab.direct import Line
from userfault.lab.machine import Machine
from userfault.linux.hugepool import count

BOOT_S = 60.0
_ANSWER_S = 20.0
_KEEPER = 0
_CALLERS = 0x8000  # channels of forked children
LINES = 6  # a program has two processes or three, and those of the last one are still ending


class GuestLost(Lost):
    """The virtual machine has died, or does not answer."""


class Guest:
    """A booted kernel.  Raises GuestLost where it does not come up within `boot_s` seconds."""

    def __init__(
        self,
        kernel: Path,
        system: bytes,
        *,
        memory_mib: int = 1024,
        cpus: int = 1,
        boot_s: float = BOOT_S,
        extra: str = "",
    ) -> None:
        self._machine = Machine(
            kernel,
            system + image.agents(),
            memory_mib=memory_mib,
            cpus=cpus,
            extra=extra,
            ports=1 + LINES,
        )
        try:
            port, *lines = self._machine.ports
            self.port = Port(port, (Line(number, line) for number, line in enumerate(lines, 2)))
            self.generation = 0
            self._next = _KEEPER
            self._wait(lambda: self.port.pings > 0, boot_s, "did not come up")
            self._keeper = Link(self.spawn(direct=False))
            self._await_reply()  # its hello
            self.release = self.read("/proc/sys/kernel/osrelease").strip()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of its QEMU."""
        return self._machine.pid

    @property
    def console(self) -> str:
        """All that it has written there."""
        return self._machine.console()

    def spawn(self, *, direct: bool = True) -> Channel:
        """A fresh agent, with a line of its own where one is free."""
        channel = self.port.channel(self._next, direct=direct)
        self._next = self._next % (_CALLERS - 1) + 1

        def came() -> bool:
            # Whoever waits for the token throws away what comes before it, so nothing is stuck.
            began = channel.line is None or channel.line.began()
            return channel.hung_up or (bool(channel.pid) and began)

        lines = [] if channel.line is None else [channel.line]
        self._wait(came, _ANSWER_S, "starts no agent", lines)
        if channel.line is not None:  # an agent says hello at once
            channel.received += channel.line.rest()
        return channel

    def reset(self) -> None:
        """The program is over: end its agents."""
        if self.port.closed:
            return
        self.port.channels = {_KEEPER: self.port.channels[_KEEPER]}
        self.port.called.clear()
        self.generation += 1
        self.port.send(Kind.RESET)

    def alive(self, timeout_s: float = _ANSWER_S) -> bool:
        """Whether it answers within this time."""
        before = self.port.pings
        self.port.send(Kind.PING)
        try:
            self._wait(lambda: self.port.pings > before, timeout_s, "")
        except GuestLost:
            return False
        return True

    def lost(self, how: str) -> GuestLost:
        """Why there is no more to be had of it."""
        self._machine.kill()
        return GuestLost(f"the virtual machine {how}", cause=self._machine.last_words())

    def close(self) -> None:
        """End it."""
        self._machine.close()

    # --- Its files --------------------------------------------------------------------------------

    def read(self, path: str) -> str:
        """A small file of the guest; OSError where it cannot be read."""
        reply = self._ask(requests.file(path))
        if reply.errno:
            raise OSError(reply.errno, os.strerror(reply.errno), path)
        return reply.data.decode()

    def write(self, path: str, text: str) -> None:
        """The same, for writing."""
        opened = self._ask(requests.open_path(path, os.O_WRONLY, control=True))
        done = self._ask(requests.write(opened.value, text.encode(), control=True))
        self._ask(requests.close(opened.value, control=True))
        failed = opened.errno or done.errno
        if failed:
            raise OSError(failed, os.strerror(failed), path)

    def swap(self) -> None:
        """Raises MemoryUnavailable unless its start has made swap space."""
        try:
            spaces = self.read("/proc/swaps").count("\n") - 1
        except FileNotFoundError:  # a kernel without CONFIG_SWAP
            spaces = 0
        if spaces < 1:
            raise MemoryUnavailable(
                "the guest has no swap space", cause="its kernel has no block device in memory"
            )

    def hugepages(self, page_size: int, pages: int) -> None:
        """Grow the pool until this many pages are free; raises MemoryUnavailable."""
        root = f"/sys/kernel/mm/hugepages/hugepages-{page_size >> 10}kB"
        try:
            total, free, reserved = (
                count(self.read(f"{root}/{what}_hugepages")) for what in ("nr", "free", "resv")
            )
            short = pages - (free - reserved)
            if short > 0:
                self.write(f"{root}/nr_hugepages", str(total + short))
                free, reserved = (
                    count(self.read(f"{root}/{what}_hugepages")) for what in ("free", "resv")
                )
        except OSError as error:
            free = reserved = 0
            cause = str(error)
        else:
            cause = f"the guest's pool has {free - reserved} free pages"
        if free - reserved < pages:
            raise MemoryUnavailable(
                f"{pages} hugetlb pages of {size_name(page_size)} are not available", cause=cause
            )

    def _ask(self, step: Step) -> Reply:
        self._keeper.send(step.encode(CONTROL))
        return self._await_reply()

    def _await_reply(self) -> Reply:
        found: list[Reply] = []

        def came() -> bool:
            found.extend(self._keeper.replies())
            return bool(found) or self._keeper.closed

        self._wait(came, _ANSWER_S, "does not answer")
        if not found:
            raise self.lost("has lost its keeper")
        return found[0]

    def _wait(
        self,
        done: Callable[[], bool],
        timeout_s: float,
        what: str,
        others: Sequence[Buffered] = (),
    ) -> None:
        deadline = time.monotonic() + timeout_s
        self.port.receive()
        while not done():
            if self.port.closed:
                raise self.lost("has died")
            left = deadline - time.monotonic()
            if not self.port.wait(left, others) and time.monotonic() > deadline:
                raise self.lost(f"{what} within {timeout_s:.0f} s")
            self.port.receive()
