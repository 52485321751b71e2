"""Standing threads that read files and stores, for all mappings of a worker.

A read releases the GIL while it waits.  A thread without work sleeps in read(2) of an eventfd, from
which each takes one count a job: waking it costs one system call, and no lock of Python's is handed
over (measured on 6.18 with Python 3.11: of a read that the disk answers in 50 µs, a new thread each
time took 40 µs more, `queue.SimpleQueue` 10, this 9).

There are as many as had work at once of late.  A read that never returns (a dead network file
system) keeps its thread, which nothing can stop; another is started in its place.
"""

from __future__ import annotations

import _thread
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from userfault.pager.drivers.processes.watching import Loop

_KEPT_S = 10.0  # how long a thread that nobody needs is kept
_AT_MOST_S = 3600.0

_clock = time.monotonic


class Job(Protocol):
    """What a thread does."""

    @property
    def stuck(self) -> bool:
        """Nobody waits for it any more: its thread does not count as one to come back soon."""
        ...

    def run(self) -> None:
        """In a thread; raises nothing."""
        ...


class Threads:
    """`bell`: an eventfd that is rung for every job that is done; `loop`: whose thread gives them.

    `count`: threads that there are.
    """

    def __init__(self, bell: int, loop: Loop) -> None:
        self.bell = bell
        self._loop = loop
        self.count = 0
        self._wake = -1  # what they sleep on, with the first of them
        self._jobs: deque[Job | None] = deque()  # None: whoever gets it ends
        self._given: dict[Job, None] = {}  # and not known to be done, oldest first
        self._done: deque[Job] = deque()
        self._peak = 0  # jobs at once since the last look
        self._due = 0.0
        self._leaving = _thread.allocate_lock()
        self._alive = 0  # threads that have not ended
        self._closed: Callable[[], None] | None = None

    def give(self, job: Job) -> None:
        """Have it done, at once if a thread can be had.

        Raises OSError or RuntimeError where there is none, and none will come back.
        """
        given = self._under_way()
        if len(given) >= self.count:
            try:
                self._start()
            except (OSError, RuntimeError):  # a limit on processes counts threads too
                if all(each.stuck for each in given):
                    raise
        given[job] = None
        self._peak = max(self._peak, len(given))
        self._jobs.append(job)
        os.eventfd_write(self._wake, 1)

    def look(self, now: float) -> float:
        """Now and then: those that nobody has needed for a while end."""
        if now >= self._due:
            self._due = now + _KEPT_S
            surplus = self.count - max(self._peak, 1)
            self._peak = len(self._under_way())
            if surplus > 0:
                self._end(surplus)
        return self._due - now if self.count > 1 else _AT_MOST_S

    def close(self, closed: Callable[[], None]) -> None:
        """End them.  `closed` is called when the last has ended: until then they ring the bell."""
        with self._leaving:
            self._closed = closed
            alive = self._alive
        if alive:
            self._end(self.count)
        else:
            self._close()

    def _under_way(self) -> dict[Job, None]:
        done = self._done
        while done:
            self._given.pop(done.popleft(), None)
        return self._given

    def _start(self) -> None:
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
            self._loop.look_at(self)
        with self._loop.lifted():
            _thread.start_new_thread(self._work, ())
        with self._leaving:
            self._alive += 1
        self.count += 1

    def _end(self, count: int) -> None:
        self.count -= count
        self._jobs.extend([None] * count)
        os.eventfd_write(self._wake, count)

    def _work(self) -> None:
        jobs, done, wake, bell = self._jobs, self._done, self._wake, self.bell
        while True:
            os.eventfd_read(wake)
            job = jobs.popleft()
            if job is None:
                break
            job.run()
            done.append(job)
            os.eventfd_write(bell, 1)
            del job  # whoever sleeps keeps nobody's bytes
        self._leave()

    def _leave(self) -> None:
        with self._leaving:
            self._alive -= 1
            last = not self._alive and self._closed is not None
        if last:
            self._close()

    def _close(self) -> None:
        if self._wake >= 0:
            os.close(self._wake)
        if self._closed is not None:
            self._closed()
