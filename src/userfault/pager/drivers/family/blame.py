"""Workers that end by errors of their own, one after the other: whose doing it was.

A worker that dies in the middle of a batch of messages, or of answering a request, did so for one
client.  If it does every time, that client is ended, and the others are served on.
"""

from __future__ import annotations

import contextlib
import time

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word

CRASHES = 3  # a worker that fails so often ...
CRASH_SPAN_S = 10.0  # ... within so many seconds will fail for ever


class Crashes:
    """Those that were noticed, each with the client to blame (0: not known)."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counted = journal.words[Word.CRASHES]
        self._noticed: list[tuple[float, int]] = []

    def for_ever(self) -> bool:
        """A worker has ended: whether that is the last of too many crashes."""
        counted = self._journal.words[Word.CRASHES]
        if counted == self._counted:
            return False
        self._counted = counted
        now = time.monotonic()
        self._noticed = [each for each in self._noticed if now - each[0] < CRASH_SPAN_S]
        self._noticed.append((now, _to_blame(self._journal)))
        return len(self._noticed) >= CRASHES

    def end_clients(self) -> bool:
        """It must not wait for ever, nor read zeros, who cannot be served: whether others can."""
        clients: dict[int, int] = {}
        with contextlib.suppress(PagerError):
            _, people = records.read(self._journal)
            clients = {each.client.number: each.client.process for each in people}
        blamed = {whose for _, whose in self._noticed}
        self._noticed.clear()
        whose = blamed.pop() if len(blamed) == 1 else 0
        if len(clients) > 1 and whose in clients and not pidfd.ended(clients[whose]):
            pid = pidfd.pid_of(clients[whose])
            say(f"the pager failed {CRASHES} times (see above) for process {pid}; ending it")
            pidfd.kill(clients[whose])
            return True
        ends = "ending the client" if len(clients) == 1 else "ending all of its clients"
        say(f"the pager failed {CRASHES} times (see above); {ends}")
        for process in clients.values():
            pidfd.kill(process)
        return False


def _to_blame(journal: Journal) -> int:
    """The client for whom the worker was at work; 0 where that is not to be seen."""
    asking = journal.words[Word.ASKING]
    if asking or not journal.unfinished():
        return asking
    with contextlib.suppress(PagerError):
        for person in records.read(journal)[1]:
            for served in person.mappings:
                for kept in served.contexts:
                    if kept.core.number == journal.words[Word.CONTEXT]:
                        return person.client.number
    return 0
