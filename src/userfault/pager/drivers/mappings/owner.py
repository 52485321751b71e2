"""The process whose memory is served, as far as its mappings need it: seen, spoken to, ended."""

from __future__ import annotations

import contextlib

from userfault.linux import cpus, pidfd
from userfault.linux.pagemap import Pagemap
from userfault.pager.drivers.processes.say import say


class Owner:
    """One client's process, by its pidfd `process`.  `number`: the client's.

    `name`: what lines about it begin with on standard error; empty where that is its own.  `alive`:
    it has not been seen to end.  `heard`: it has faulted since its signals were looked at last.
    `has_our_ids`: thread ids in its faults are those that we see.
    """

    def __init__(self, number: int, process: int, name: str = "") -> None:
        self.number = number
        self.process = process
        self.name = name
        self.alive = True
        self.heard = False
        self.has_our_ids = cpus.shares_thread_ids(pidfd.pid_of(process))
        self._pagemap: Pagemap | None = None

    @property
    def pid(self) -> int:
        """Its process id as seen here; -1 once it was reaped, 0 if not to be seen."""
        return pidfd.pid_of(self.process)

    def pagemap(self) -> Pagemap:
        """Its page tables.  Raises OSError where they are not to be seen."""
        self._pagemap = self._pagemap or Pagemap(self.pid)
        return self._pagemap

    def say(self, text: str) -> None:
        """A line on standard error that concerns it."""
        say(text, self.name)

    def end(self, why: str) -> None:
        """Kill it: it must not go on with memory that nobody can fill."""
        self.say(f"{why}; ending process {self.pid}")
        with contextlib.suppress(PermissionError):  # it has other rights than ours by now
            pidfd.kill(self.process)

    def close(self) -> None:
        """Close what it was looked at with."""
        if self._pagemap is not None:
            self._pagemap.close()
            self._pagemap = None
