"""Being where the faults come from: looks at the faulting thread, moves, sleeps or polls.

What is decided, and why, is in `pager/core/placement.py` and `pager/core/polling.py`.  A look takes
some 30 µs of system calls and is made once in 256 faults, after one was served: the thread is
then where its next fault will come from.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator

from userfault.linux import cpus
from userfault.pager.core.placement import Chooser, kept_waiting
from userfault.pager.core.placing import ANY, Look, Placing, Stand
from userfault.pager.core.polling import Polling

_LOOK_S = 0.1  # faults that come slowly: a look at least so often
_STRANGE = 32  # a fault of another thread counts as so many
_UNSEEN = 256  # faults until a thread that could not be seen is looked for again
_EVENTS = 64  # descriptors that one wait tells of

_clock = time.monotonic


class Placement:
    """Where one thread (the one that makes it) runs, and how it waits on `epoll`.

    `thread`: set by the driver to the id of a thread whose fault was served, if it means anything
    here.
    """

    def __init__(self, epoll: select.epoll, placing: Placing) -> None:
        self._wait = epoll.poll
        self._held = self._home = cpus.allowed()
        self._chooser = Chooser(placing, self._home)
        self._polling = Polling(placing.poll_budget)
        self._may_look = placing.cpu != ANY
        self._looks = False
        self.thread = 0
        self._last = 0  # the thread before
        self._working = False
        self._left = 0  # faults until the next look
        self._looked_at = self._woke_at = _clock()
        self._faults = 0  # since the last look, as is what follows
        self._serving_s = 0.0
        self._used_s = time.thread_time()
        _, self._delayed_s = cpus.run_and_wait(0)
        self._ran: dict[int, float] = {}
        self._polls = False
        self._noted = 0.0, 0.0  # how long the last wait took, and how long it polled
        self._take(self._chooser.first())

    def knows(self, *, threads: bool) -> None:
        """Whether thread ids of any client mean something here: then it looks where they are."""
        self._looks = self._may_look and threads

    @property
    def polled_s(self) -> float:
        """Seconds spent polling so far, without the last wait."""
        return self._polling.used_s

    def polling(self) -> Polling:
        """Polling for something else than faults, out of the same budget."""
        return self._polling.another() if self._may_look else Polling(0.0)

    def look(self) -> list[tuple[int, int]]:
        """What is there now."""
        return self._wait(0, _EVENTS)

    def wait(self, timeout: float, *, working: bool) -> list[tuple[int, int]]:
        """Wait on the epoll for `timeout` seconds (-1: for ever), where and how is best.

        `working`: there is background work.
        """
        if not self._looks:
            return self._wait(timeout, _EVENTS)
        now = _clock()
        self._serving_s += now - self._woke_at
        thread = self.thread
        if thread:
            self.thread = 0
            self._faults += 1
            self._left -= 1 if thread == self._last else _STRANGE
            self._last = thread
            if self._left <= 0 or now - self._looked_at > _LOOK_S:
                self._look(now, thread, working)
        elif working and not self._working:
            self._look(now, 0, working)  # what is to be filled must not wait for a fault
        if self._polls and timeout:
            return self._poll(now, timeout)
        ready = self._wait(timeout, _EVENTS)
        self._woke_at = _clock()
        return ready

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Within it, what is started (a thread, a process) inherits no place of ours."""
        if self._held == self._home:
            yield
            return
        held = self._held
        self._move(self._home)
        try:
            yield
        finally:
            self._move(held)

    def _poll(self, now: float, timeout: float) -> list[tuple[int, int]]:
        """Poll while that is allowed, then sleep.  What it took is noted when nobody waits."""
        polling = self._polling
        polling.waited(*self._noted)
        wait = self._wait
        stop = now + polling.allowance(now)
        ready: list[tuple[int, int]] = []
        clock = now
        while not ready and clock < stop:
            ready = wait(0, _EVENTS)
            clock = _clock()
        polled_s = clock - now
        if not ready:
            ready = wait(timeout, _EVENTS)
            clock = _clock()
        self._woke_at = clock
        self._noted = clock - now, polled_s
        return ready

    def _look(self, now: float, thread: int, working: bool) -> None:
        """See where the thread is and what being here has cost; go where the chooser says."""
        self._working = working
        self._looked_at = now
        cpu = cpus.cpu_of(thread) if thread else None
        if thread and cpu is None:  # it has ended, or is not to be seen
            self._left = _UNSEEN
            return
        self._notice_binding()
        waited_s = self._waited(thread)
        faults, self._faults = self._faults, 0
        bound = thread != 0 and cpus.allowed(thread) == {cpu}
        look = Look(now, thread, -1 if cpu is None else cpu, bound, working, faults, waited_s)
        self._take(self._chooser.saw(look))

    def _notice_binding(self) -> None:
        """Whoever has bound us anew (taskset, a cpuset) says where we may be from now on."""
        found = cpus.allowed()
        if found != self._held:
            self._held = self._home = found
            self._chooser.allow(found)

    def _waited(self, thread: int) -> float:
        """How long others kept us from running since the last look."""
        _, delayed = cpus.run_and_wait(0)
        used = time.thread_time()
        ran = {
            each: cpus.run_and_wait(each)[0] for each in self._chooser.threads | {thread} if each
        }
        fresh = sum(seconds - self._ran.get(each, seconds) for each, seconds in ran.items())
        waited = kept_waiting(
            delayed - self._delayed_s, fresh, self._serving_s, used - self._used_s
        )
        self._delayed_s, self._used_s, self._ran, self._serving_s = delayed, used, ran, 0.0
        return waited

    def _take(self, stand: Stand) -> None:
        self._polls = stand.polls
        self._left = stand.look_after
        if stand.cpus != self._held and not self._move(stand.cpus):
            self._chooser.allow(self._home - stand.cpus or self._home)

    def _move(self, where: frozenset[int]) -> bool:
        if not cpus.move(where):
            return False
        self._held = cpus.allowed()  # the kernel leaves out those that a cpuset forbids
        return True
