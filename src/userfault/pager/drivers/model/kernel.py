"""The modelled machine as a pager sees it: its process, its clock, and what may go wrong there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from userfault.model.process import Process, Thread
from userfault.model.tasks.sched import Task, Wait
from userfault.pager.drivers.wire.messages import Request

NOT_FDS = 1 << 20  # from here on numbers of what is a descriptor on Linux, and none of the model's


class WorkerKilled(BaseException):  # it says what happened
    """SIGKILL has ended the worker.  No Exception: nothing of the worker's may catch it."""


class Reading(msgspec.Struct, frozen=True):
    """How a read of the source goes: how long it takes, and why it fails ("": it does not)."""

    seconds: float = 0.0
    failure: str = ""


class Weather(Protocol):
    """What goes wrong.  Asked at each occasion, in an order that the schedule alone decides."""

    def refusal(self, request: int, address: int, pages: int) -> tuple[int, int]:
        """Of a fill: the errno that it meets (0: none), after so many pages."""

    def at_hand(self, page: int, count: int) -> bool:
        """Whether these pages of the source can be copied from at once."""

    def reading(self, page: int, count: int) -> Reading:
        """How a read of these pages goes."""

    def early(self) -> bool:
        """Whether a short time that the worker waits for has passed at once."""


class Calm:
    """Nothing goes wrong."""

    def refusal(self, request: int, address: int, pages: int) -> tuple[int, int]:
        del request, address, pages
        return 0, 0

    def at_hand(self, page: int, count: int) -> bool:
        del page, count
        return True

    def reading(self, page: int, count: int) -> Reading:
        del page, count
        return Reading()

    def early(self) -> bool:
        return False


class Clock:
    """The time of a modelled world: it passes while nobody can do anything else.

    Somebody has to be the one who lets it pass (`pass_on`) when all others wait; or else
    (`spins`) whoever sleeps does so himself: he looks again once anybody has done a thing.
    """

    def __init__(self, *, spins: bool = False) -> None:
        self.now = 0.0
        self._spins = spins
        self.sleepers: dict[Task, float] = {}
        self._alarms: list[tuple[float, Callable[[], None]]] = []

    def sleep(
        self, task: Task, until: float, tell: Callable[[], str], *, kind: str = "time"
    ) -> None:
        """Until then, or until somebody wakes the task."""
        if self._spins and until < float("inf"):
            task.sched.spin(tell)
            self.now = max(self.now, until)
            return
        self.sleepers[task] = until
        try:
            task.sched.block(Wait(kind, tell, give_up=lambda: None))
        finally:
            self.sleepers.pop(task, None)

    @property
    def next(self) -> float | None:
        """When somebody wants to be woken."""
        return min([*self.sleepers.values(), *(when for when, _ in self._alarms)], default=None)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call it then."""
        self._alarms.append((when, call))

    def pass_on(self) -> None:
        """To the time when the next one wants to be woken; there is one."""
        when = self.next
        assert when is not None
        self.now = max(self.now, when)
        due = [call for when, call in self._alarms if when <= self.now]
        self._alarms = [alarm for alarm in self._alarms if alarm[0] > self.now]
        for call in due:
            call()
        for task in [task for task, until in self.sleepers.items() if until <= self.now]:
            task.sched.wake(task)


class Mailbox:
    """What a client asks for, until it was answered: it asks again whoever takes over."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[Request] = []

    def fileno(self) -> int:
        """What stands for the descriptor."""
        return self.number


class Kernel:
    """What is there before a worker, and after it: the pager's process, its descriptors, the clock.

    `mortal`: workers may be killed, so that each of their effects on what outlives them is a point.
    """

    def __init__(self, process: Process, clock: Clock, weather: Weather, *, mortal: bool) -> None:
        self.process = process
        self.clock = clock
        self.weather = weather
        self.mortal = mortal
        self.clients: dict[int, Process] = {}  # by the number that stands for their pidfd
        self.mailboxes: dict[int, Mailbox] = {}  # by the number that stands for their socket
        self._given = NOT_FDS

    def number(self) -> int:
        """For what is a descriptor on Linux."""
        self._given += 1
        return self._given

    def point(self, task: Thread, name: str) -> None:
        """The worker runs in user mode: it may be preempted here, and killed."""
        if task.killed:
            raise WorkerKilled
        task.sched.point("pager." + name)
        if task.killed:
            raise WorkerKilled
