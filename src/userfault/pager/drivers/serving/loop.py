"""One loop that sleeps until something is to be done, and has it done.

It knows nobody: whoever is served has watched a descriptor, or waits for a time, or has background
work.  The way of one fault is: epoll_wait, the handler of its userfaultfd, epoll_wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from userfault.linux.libc import nap
from userfault.linux.refused import calling
from userfault.pager.core.placing import Placing
from userfault.pager.core.polling import Polling
from userfault.pager.drivers.processes.watching import Look, Timer
from userfault.pager.drivers.record.journal import BATCH
from userfault.pager.drivers.serving.placement import Placement

_FEW = 4  # messages a read while others wait for their turn
_CROWD = 8  # descriptors that are ready
_TICK_S = 1e-3  # what epoll can tell apart
_LOOK_S = 0.1  # between two looks, while something happens
_AT_MOST_S = 10.0  # without a look


class Background(Protocol):
    """What is done while nothing waits.  False while there is nothing to do."""

    def __bool__(self) -> bool: ...

    def disturbed(self) -> bool:
        """A round of the loop had faults.  Whether a piece is due nevertheless."""

    def work(self) -> None:
        """One piece, of whoever is next."""


class Epoll(Protocol):
    """The descriptors that are watched."""

    def fileno(self) -> int: ...
    def poll(self, timeout: float, maxevents: int) -> Sequence[object]: ...
    def register(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def close(self) -> None: ...


class Waits(Protocol):
    """Waits for one of them, where and how is best (see `placement`)."""

    thread: int

    @property
    def polled_s(self) -> float: ...
    def polling(self) -> Polling: ...
    def look(self) -> list[tuple[int, int]]: ...
    def knows(self, *, threads: bool) -> None: ...
    def wait(self, timeout: float, *, working: bool) -> list[tuple[int, int]]: ...
    def lifted(self) -> contextlib.AbstractContextManager[None]: ...


class Soon(Protocol):
    """Something that is about to happen, of which no descriptor tells."""

    def __bool__(self) -> bool: ...
    def wait(
        self, look: Callable[[], list[tuple[int, int]]], *, working: bool
    ) -> list[tuple[int, int]]: ...


class Loop:
    """Watches descriptors and times.  `turn`: how many messages one userfaultfd may read now.

    `crowded`: many are called in this round; `called`: what is done when they have been.
    """

    _real_time = False

    def __init__(self, placing: Placing) -> None:
        with calling("epoll_create1"):
            epoll = select.epoll()
        self._begin(epoll, Placement(epoll, placing), time.monotonic)
        # A client's policy and priority are inherited (sched(7)), and of the same priority in real
        # time nobody is let in before a process sleeps or gives way.
        self._real_time = _in_real_time()
        self._look_only = select.poll()
        self._look_only.register(epoll.fileno(), select.POLLIN)

    def _begin(self, epoll: Epoll, placement: Waits, clock: Callable[[], float]) -> None:
        """`epoll` and `clock` of the kernel that it runs on, `placement` to wait there."""
        self._epoll = epoll
        self._clock = clock
        self.placement = placement
        self.soon: Soon | None = None
        self.turn = BATCH
        self.crowded = False
        self.called: Callable[[], None] = _nobody
        self.timers: dict[Timer, None] = {}
        self._handlers: dict[int, Callable[[], None]] = {}
        self._fresh: set[int] = set()  # watched since the last wait told of several
        self._looks: list[Look] = []
        self._look_at = 0.0
        self._at_most = 0.0  # how long to sleep, as the last looks said

    def watch(self, fd: int, handler: Callable[[], None], *, edge: bool = False) -> None:
        """Call `handler` when `fd` is readable; with `edge`, once for each time that more comes."""
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        self._handlers[fd] = handler
        self._fresh.add(fd)

    def forget(self, fd: int) -> None:
        """No more."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # closed: it has left the epoll set by that
                self._epoll.unregister(fd)

    def pressing(self) -> bool:
        """Whether somebody waits for the loop: what is done meanwhile may be broken off for it.

        epoll_wait(2) would take what it tells of: nobody told of an edge is told of it twice.
        """
        return bool(self._look_only.poll(0))

    def look_at(self, what: Look) -> None:
        """Look at it from now on."""
        self._looks.append(what)

    def look_soon(self) -> None:
        """There is more to look at than there was: not after the next sleep, but before."""
        self._look_at = self._at_most = 0.0

    def polling(self) -> Polling:
        """How long to wait for something without sleeping."""
        return self.placement.polling()

    def lifted(self) -> contextlib.AbstractContextManager[None]:
        """Within it, what is started (a thread, a process) inherits no place of ours."""
        return self.placement.lifted()

    def run(self, whom: object, background: Background) -> None:
        """Go on as long as there is anybody in `whom` (a collection)."""
        while whom:
            working = bool(background)
            if self.soon:
                ready = self.soon.wait(self.placement.look, working=working)
            else:
                ready = self.placement.wait(self._slept(background), working=working)
            if len(ready) == 1:
                self.turn = BATCH
                self._handlers.get(ready[0][0], _nobody)()
            else:
                self._call_all(ready)
            now = self._clock()
            if self.timers:
                self._tick(now)
            if now >= self._look_at:
                self._look(now)
            if not ready or (background and background.disturbed()):
                background.work()
                if self._real_time:
                    self._give_way()
            elif background:
                # A client on this CPU goes first: it may fault again at once.
                self._give_way()

    def _call_all(self, ready: list[tuple[int, int]]) -> None:
        """Call who has watched them.

        One of them may close a descriptor, whose number is another's by now; epoll has told nothing
        of that one, and whoever read there might wait.
        """
        self.turn = _FEW
        fresh, handlers = self._fresh, self._handlers
        fresh.clear()
        self.crowded = len(ready) >= _CROWD
        for fd, _ in ready:
            if fd not in fresh:
                handlers.get(fd, _nobody)()
        if self.crowded:
            self.crowded = False
            self.called()

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()

    def _slept(self, background: Background) -> float:
        """How long epoll may sleep, in seconds.

        What is shorter than epoll can tell apart has passed already, unless something happened.
        """
        if background:
            return 0
        if not self.timers:  # without a look at the clock: so it is for nearly every fault
            return self._at_most
        timeout = self._timeout()
        if 0 < timeout < _TICK_S:
            self._nap(timeout)
            return 0
        return timeout

    def _give_way(self) -> None:
        os.sched_yield()

    def _nap(self, timeout: float) -> None:
        nap(self._epoll.fileno(), timeout)

    def _timeout(self) -> float:
        first = None
        for timer in list(self.timers):
            when = timer.next_time()
            if when is None:
                del self.timers[timer]
            elif first is None or when < first:
                first = when
        return self._at_most if first is None else min(max(first - self._clock(), 0), self._at_most)

    def _tick(self, now: float) -> None:
        for timer in list(self.timers):
            timer.tick(now)

    def _look(self, now: float) -> None:
        self._look_at = now + _LOOK_S
        self._at_most = min((each.look(now) for each in self._looks), default=_AT_MOST_S)


def _in_real_time() -> bool:
    try:
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR)
    except OSError:  # a system call filter
        return False


def _nobody() -> None:
    """Whoever watched it has forgotten it a moment ago."""
