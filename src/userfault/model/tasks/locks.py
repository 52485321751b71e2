"""Locks that a task may sleep for."""

from __future__ import annotations

from collections import deque

from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Sched, Task, Wait


class RWLock:
    """Many readers or one writer, first come first served; handed over, never stolen."""

    __slots__ = ("_queue", "_sched", "name", "number", "readers", "writing")

    def __init__(self, sched: Sched, name: str) -> None:
        self._sched = sched
        self.name = name
        self.number = RECORD.number()
        self.readers = 0
        self.writing = False  # by a task, or from outside of every task
        self._queue: deque[tuple[bool, Task]] = deque()

    def read(self) -> None:
        if self._sched.preemptive:
            self._sched.point(self.name + ".read")
        self.read_at_once()

    def read_at_once(self) -> None:
        """Without a point: there is one just before, and nothing was looked at since."""
        if RECORD.on:
            RECORD.adds.add(("lock", self.number))
        if not self.writing and not self._queue:
            self.readers += 1
        else:
            self._wait(False)

    def try_read(self) -> bool:
        """For reading if nobody has it or waits for it for writing; never sleeps."""
        if RECORD.on:
            RECORD.adds.add(("lock", self.number))
        if self.writing or self._queue:
            return False
        self.readers += 1
        return True

    def write(self) -> None:
        if self._sched.preemptive:
            self._sched.point(self.name + ".write")
        self.write_at_once()

    def write_at_once(self) -> None:
        """Without a point: what was looked at since the last one is locked already."""
        if RECORD.on:
            RECORD.writes.add(("lock", self.number))
        if not self.writing and not self.readers and not self._queue:
            self.writing = True
        else:
            self._wait(True)

    def read_done(self) -> None:
        if RECORD.on:
            RECORD.adds.add(("lock", self.number))
        self.readers -= 1
        if self._queue:
            self._hand_over()

    def write_done(self) -> None:
        if RECORD.on:
            RECORD.writes.add(("lock", self.number))
        self.writing = False
        if self._queue:
            self._hand_over()

    def _wait(self, write: bool) -> None:
        task = self._sched.current
        if task is not None:
            self._queue.append((write, task))
        kind = "write" if write else "read"
        self._sched.block(Wait("lock", lambda: f"the lock {self.name} for {kind}"))
        if RECORD.on:  # it was handed over by whoever gave it up last, after all who had it
            (RECORD.writes if write else RECORD.adds).add(("lock", self.number))

    def _hand_over(self) -> None:
        queue = self._queue
        while queue:
            write, task = queue[0]
            if self.writing or (write and self.readers):
                return
            queue.popleft()
            if write:
                self.writing = True
            else:
                self.readers += 1
            self._sched.wake(task)
