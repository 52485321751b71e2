"""A mapping that an error of ours has left undecided: nothing of it is filled any more.

What is there stays as it is.  Whoever touches what is not there gets SIGBUS, never a byte that
might be wrong; and events are read on, so that nobody who raises one sleeps for ever.
"""

from __future__ import annotations

import errno

import msgspec

from userfault.pager.core.actions import (
    POISON,
    EndClient,
    Fetch,
    Fill,
    Finish,
    Found,
    Inspect,
    Wake,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import Pages

# The page is there, or cannot be poisoned now: whoever waits faults again and shows which.
_FAULT_AGAIN = (errno.EAGAIN, errno.EEXIST, errno.ENOENT, errno.EFAULT, errno.ENOMEM)


class _NoPages(Pages):
    """One page that is never settled, and stands for whatever there may be."""

    def __init__(self) -> None:
        super().__init__(bytearray(1), 1)

    def move(self, page: int, count: int, new: int) -> None:
        """It stays as it is."""


class LostCore(MappingCore):
    """Answers each fault with poison; `why` is told where the client has to be ended instead."""

    def __init__(self, plan: Plan, why: str) -> None:
        plan = msgspec.structs.replace(plan, layout=None)
        super().__init__(plan, _NoPages(), Segments.of((), plan.shift))
        self.planner.background = False
        self.ledger.given_up = why
        self.done = self._poisoned

    @property
    def eager(self) -> bool:
        """There is nothing to do."""
        return False

    def idle_work(self) -> int:
        """There is nothing to do."""
        return 0

    def fault(self, address: int, flags: int) -> None:
        """A thread waits at `address`."""
        del flags
        self.counters.faults += 1
        if self.plan.has_poison:
            self.out.append(Fill(POISON, -1, 1, address >> self.plan.shift << self.plan.shift))
        else:
            self.out.append(EndClient(self.given_up))

    def _poisoned(self, fill: Fill) -> None:
        """A page is poisoned."""
        self.counters.poisoned += fill.count

    def failed(self, fill: Fill, code: int, done_bytes: int, now: float) -> None:
        """A page could not be poisoned."""
        del done_bytes, now
        if code == errno.ESRCH:
            self.ledger.finished = True
            self.out.append(Finish((), owner_gone=True))
        elif code in _FAULT_AGAIN:
            self.out.append(Wake(fill.address, 1 << self.plan.shift))
        else:
            self.out.append(EndClient(self.given_up))

    def remove(self, start: int, end: int) -> None:
        """Nothing is known of pages, and so nothing changes."""

    def unmap(self, start: int, end: int) -> None:
        """Who waits there faults again."""
        self.out.append(Wake(start, end - start))

    def remap(self, old: int, new: int, length: int) -> None:
        """Who waits there faults again."""
        del new
        self.out.append(Wake(old, length))

    def fork(self, pages: Pages | None = None, shown: Segments | None = None) -> MappingCore:
        """The child's memory is lost with its parent's."""
        del pages, shown
        return LostCore(self.plan, self.given_up)

    def want(self, page: int, count: int) -> None:
        """Nothing is filled."""

    def complete(self) -> None:
        """Nothing is filled."""

    def give_up(self, cause: str, cure: str) -> None:
        """It is."""

    def tick(self, now: float) -> None:
        """Nothing is timed."""

    def leave(self) -> None:
        """Nothing is under way."""

    def retry(self) -> None:
        """Nothing was put aside."""

    def started(self, fetch: Fetch, now: float) -> None:
        """A read that was asked for before."""

    def fetched(self, fetch: Fetch, data: memoryview) -> None:
        """A read that was asked for before."""

    def fetch_failed(self, fetch: Fetch, cause: str, now: float) -> None:
        """A read that was asked for before."""

    def inspected(self, look: Inspect, found: Found, now: float) -> None:
        """An answer to what was asked before."""
