"""A share of a CPU for each client, where there is to be one.

A client's messages are read in turn with those of all others, a few at a time; so none keeps the
others waiting for more than its turn.  But one that faults without end has every turn that it can
get.  With rations, the time that a worker spends on a client's messages is paid from an account
that grows with time; whoever has overdrawn it is not read until it is even again.  Only its own
threads wait for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.watching import Loop

_SAVED_S = 0.02  # of a CPU, for a client that was quiet: some thousand faults

Reader = Callable[[Context], None]  # reads and serves one batch of messages


class _Account:
    """What a process may spend yet, in seconds of a CPU, as of `when`."""

    __slots__ = ("left", "when")

    def __init__(self, when: float) -> None:
        self.left = _SAVED_S
        self.when = when


class Rations:
    """`share`: of one CPU, for the messages of each process.  `spent`: a clock of CPU time."""

    def __init__(
        self,
        loop: Loop,
        share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._loop = loop
        self._share = share
        self._clock = clock
        self._spent = spent
        self._accounts: WeakKeyDictionary[Owner, _Account] = WeakKeyDictionary()
        self._parked: dict[Context, Reader] = {}

    def watch(self, context: Context, read: Reader) -> None:
        """Have `read` called when there is something to read, as often as the share allows."""
        self._loop.watch(context.fd, lambda: self._readable(context, read))

    def discard(self, context: Context) -> None:
        """It is served no more."""
        self._parked.pop(context, None)

    def next_time(self) -> float | None:
        """When the first of those who wait for their share has it."""
        return min(map(self._even_at, self._parked), default=None)

    def tick(self, now: float) -> None:
        """Read those again who have it."""
        for context in [each for each in self._parked if self._even_at(each) <= now]:
            self.watch(context, self._parked.pop(context))

    def _readable(self, context: Context, read: Reader) -> None:
        account = self._account(context.served.owner)
        if account.left < 0:
            self._loop.forget(context.fd)
            self._parked[context] = read
            self._loop.timers[self] = None
            return
        began = self._spent()
        read(context)
        account.left -= self._spent() - began

    def _account(self, owner: Owner) -> _Account:
        """With what it has earned since it was looked at last."""
        now = self._clock()
        account = self._accounts.setdefault(owner, _Account(now))
        account.left = min(account.left + (now - account.when) * self._share, _SAVED_S)
        account.when = now
        return account

    def _even_at(self, context: Context) -> float:
        account = self._accounts[context.served.owner]
        return account.when - min(account.left, 0.0) / self._share
