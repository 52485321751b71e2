"""Waiting for descriptors of the model, and for its time: what epoll is on Linux."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

from userfault.model.errors import Killed
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import SPINS, Task
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.pager.core.polling import Polling
from userfault.pager.drivers.model.calls import ModelCalls
from userfault.pager.drivers.model.kernel import WorkerKilled
from userfault.pager.drivers.serving.loop import Loop

WAITS_EPOLL = "epoll"
_NEVER = float("inf")
_SHORT_S = 2e-3  # such times may have passed by the time that the worker looks


def wake_waiting(task: Task) -> None:
    """A worker that waits for descriptors looks again."""
    waits = task.waits
    if waits is not None and waits.kind in (WAITS_EPOLL, SPINS):
        task.sched.wake(task)


class Watched:
    """The descriptors that a worker watches."""

    def __init__(self, calls: ModelCalls) -> None:
        self._calls = calls
        self._fds: dict[int, None] = {}
        self.asleep = False  # in `sleep`

    def fileno(self) -> int:
        return -1

    def register(self, fd: int, eventmask: int) -> None:
        del eventmask
        self._fds[fd] = None

    def unregister(self, fd: int) -> None:
        self._fds.pop(fd, None)

    def close(self) -> None:
        self._fds.clear()

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        """The same, without a wait."""
        del timeout, maxevents
        self._calls.kernel.point(self._calls.task, "epoll")
        return self.ready()

    def ready(self) -> list[tuple[int, int]]:
        """Those that have something to read."""
        return [(fd, select.EPOLLIN) for fd in self._fds if self._is_ready(fd)]

    def _is_ready(self, fd: int) -> bool:
        context = self._context(fd)
        if context is not None:
            return context.readable()
        client = self._calls.kernel.clients.get(fd)
        if client is not None:
            if RECORD.on:
                RECORD.reads.add(("process", client.pid))
            return not client.alive
        if RECORD.on:
            RECORD.reads.add(("bell", fd))
        mailbox = self._calls.kernel.mailboxes.get(fd)
        return bool(mailbox.asked) if mailbox is not None else fd in self._calls.rung

    def _context(self, fd: int) -> Context | None:
        held = self._calls.kernel.process.fds.get(fd)
        return held[0].context if held and isinstance(held[0], UffdFile) else None

    def sleep(self, until: float) -> None:
        """Until one of them is ready, or somebody wakes the worker, or it is that late."""
        task = self._calls.task
        contexts = [context for fd in self._fds if (context := self._context(fd)) is not None]
        for context in contexts:
            if RECORD.on:
                RECORD.writes.add(("readers", context.number))
            context.readers.append(task)
        self.asleep = True
        try:
            self._calls.kernel.clock.sleep(task, until, self._tell, kind=WAITS_EPOLL)
        except Killed:
            raise WorkerKilled from None
        finally:
            self.asleep = False
            for context in contexts:
                if RECORD.on:
                    RECORD.writes.add(("readers", context.number))
                with contextlib.suppress(ValueError):  # who woke us has taken us off
                    context.readers.remove(task)

    def _tell(self) -> str:
        return "something to serve"


class Waiting:
    """How a worker of the model waits: where it runs, it does not ask."""

    polled_s = 0.0

    def __init__(self, calls: ModelCalls, watched: Watched) -> None:
        self._calls = calls
        self._watched = watched
        self.thread = 0

    def knows(self, *, threads: bool) -> None:
        """Thread ids mean nothing here."""

    def polling(self) -> Polling:
        """Nothing is polled for: time passes by itself."""
        return Polling(0.0)

    def look(self) -> list[tuple[int, int]]:
        """What is there now."""
        return self._watched.ready()

    def wait(self, timeout: float, *, working: bool) -> list[tuple[int, int]]:
        """As epoll_wait(2)."""
        del working
        kernel = self._calls.kernel
        kernel.point(self._calls.task, "epoll")
        ready = self._watched.ready()
        if ready or not timeout:
            return ready
        if timeout < _SHORT_S and kernel.weather.early():
            kernel.clock.now += timeout
            return ready
        self._watched.sleep(kernel.clock.now + timeout)
        return self._watched.ready()

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """What is started has no place."""
        yield


class ModelLoop(Loop):
    """The loop, asleep in the model."""

    def __init__(self, calls: ModelCalls) -> None:
        self.watched = Watched(calls)
        self._begin(self.watched, Waiting(calls, self.watched), calls.clock)
        self._look_at = self._at_most = _NEVER  # nothing is looked at unasked

    def look_soon(self) -> None:
        """There is nothing."""

    def pressing(self) -> bool:
        """Whether something is ready."""
        return bool(self.watched.poll(0, 1))

    def _give_way(self) -> None:
        """Whoever else can run may do so at the next point."""

    def _slept(self, background: object) -> float:
        if background:
            return 0
        return self._timeout() if self.timers else _NEVER
