"""Tasks and who runs next.

A task is a greenlet, so kernel code reads as straight lines.  It gives up the processor in two
ways: at a *point*, a named place where the real kernel can be preempted, and in *block*, until
somebody wakes it.  A `Scheduler` decides at points and whenever more than one task can run; with
the same scheduler and seed a run is the same, step by step (`trace`).

Points are named where they stand: `userfault.model.tasks.points` says what each stands for.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

from userfault.kernel.protocol import State
from userfault.model.errors import ContractBreach, Deadlock, Killed
from userfault.model.tasks.recorder import RECORD

SPINS = "spins"  # the kind of wait of a task that the kernel lets try again for ever


class Scheduler(Protocol):
    """Who runs.  `preemptive` False means that points are never asked about."""

    preemptive: bool

    def new_run(self) -> None:
        """Begin a run: forget the last one."""

    def next_task(self, tasks: Sequence[Task], point: str) -> int:
        """The index of the task that runs next; tasks[0] stands at `point`, others at theirs."""


class Operation:
    """One thing a task was given to do; satisfies `protocol.Pending` but for the outcome."""

    __slots__ = ("_task", "call", "done", "error", "started", "value")

    def __init__(self, task: Task, call: Callable[[], Any]) -> None:
        self._task = task
        self.call = call
        self.started = False
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Run in the task."""
        self.started = True
        try:
            self.value = self.call()
        except Exception as error:  # whatever it is, whoever waits for the result must hear it
            self.error = error
        self.done = True
        self._task.sched.progress += 1

    @property
    def state(self) -> State:
        if self.done:
            return State.DONE
        if not self.started:
            return State.NOT_STARTED
        return State.BLOCKED if self._task.waits is not None else State.RUNNING

    @property
    def waits_for(self) -> str:
        waits = self._task.waits
        return waits.kind if waits is not None and self.started and not self.done else ""

    def get(self) -> Any:
        """The value, or raise what the call raised; runs the machine until it is there."""
        if not self.done:
            self._task.sched.run(self)
        if not self.done:
            raise Deadlock(self._task.sched.stuck())
        if self.error is not None:
            raise self.error
        return self.value


class Wait:
    """What a sleeping task waits for.

    `kind`: `fault`, `event`, `read`, `pipe`, `spins`, or `lock`, which somebody *must* give up.
    `tell` describes it.  `interruptible`: a signal ends it.  `give_up` takes the waiter off its
    queue when something other than a wake-up ends the wait.
    """

    __slots__ = ("give_up", "interruptible", "kind", "tell")

    def __init__(
        self,
        kind: str,
        tell: Callable[[], str],
        *,
        interruptible: bool = False,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self.kind = kind
        self.tell = tell
        self.interruptible = interruptible
        self.give_up = give_up


class Task:
    """What can run: one operation at a time, in the order given."""

    __slots__ = (
        "_fiber",
        "idle",
        "interrupted",
        "killed",
        "name",
        "queue",
        "restarts",
        "sched",
        "signals",
        "tid",
        "waits",
    )

    def __init__(self, sched: Sched, name: str, tid: int) -> None:
        self.sched = sched
        self.name = name
        self.tid = tid
        self.queue: deque[Operation] = deque()
        self.waits: Wait | None = None
        self.idle = True
        self.interrupted = False  # a signal ended the last wait
        self.restarts = False  # ... whose handler was set with SA_RESTART
        self.killed = False
        self.signals: list[int] = []  # handled, in order: what a handler would have seen
        self._fiber: greenlet | None = None

    def submit(self, call: Callable[[], Any]) -> Operation:
        """Give it work; it starts when the machine runs."""
        operation = Operation(self, call)
        self.queue.append(operation)
        if self.idle:
            if RECORD.on:
                RECORD.writes.add(("wake", self.tid))
            self.idle = False
            self.sched.runnable.append(self)
        return operation

    def call(self, call: Callable[[], Any]) -> Any:
        """Do it now: inside a task directly, from outside by running the machine."""
        if self.sched.current is not None:
            return call()
        return self.submit(call).get()

    def signal(self, number: int, *, restart: bool = False) -> None:
        """A signal with a handler arrives: an interruptible sleep ends."""
        if RECORD.on:
            RECORD.writes.add(("task", self.tid))
            RECORD.reads.add(("asleep", self.tid))
        self.signals.append(number)
        self.restarts = restart
        waits = self.waits
        if waits is not None and waits.interruptible:
            self.interrupted = True
            self._end_wait(waits)

    def kill(self) -> None:
        """SIGKILL: any sleep but that for a lock ends, work not begun is dropped."""
        if RECORD.on:
            RECORD.writes.add(("task", self.tid))
            RECORD.reads.add(("asleep", self.tid))
        self.killed = True
        for operation in self.queue:
            operation.error = Killed()
            operation.done = True
        self.queue.clear()
        if self.waits is not None and self.waits.kind != "lock":
            self._end_wait(self.waits)

    def _end_wait(self, waits: Wait) -> None:
        if waits.give_up is not None:
            waits.give_up()
        self.sched.wake(self)

    def abandon(self) -> None:
        """Drop it in the middle of what it does: its stack is unwound and its work forgotten.

        A suspended fiber that nobody ends would keep the whole machine for ever.
        """
        self.queue.clear()
        fiber, self._fiber = self._fiber, None
        if fiber:
            fiber.parent = getcurrent()
            with contextlib.suppress(Exception):  # what its `finally` ran into on the way out
                fiber.throw(GreenletExit)

    @property
    def stack(self) -> FrameType | None:
        """Where it stands, when it is suspended."""
        return None if self._fiber is None else self._fiber.gr_frame

    def resume(self) -> None:
        """Run it until it gives up the processor (called by the machine's loop)."""
        if self._fiber is None:
            self._fiber = greenlet(self._run)
        self._fiber.switch()

    def _run(self) -> None:
        while self.queue:
            self.queue.popleft().run()
        self.idle = True
        # The fiber ends here rather than wait for work: what a suspended one refers to, the whole
        # machine, is out of the garbage collector's sight and would never be freed.
        self._fiber = None
        getcurrent().parent = self.sched.hub


class Sched:
    """The processor: one task runs at a time."""

    def __init__(self, scheduler: Scheduler, *, trace: bool = False) -> None:
        self.use(scheduler)
        self.runnable: list[Task] = []
        self.sleeping: dict[Task, None] = {}
        self.current: Task | None = None
        self.trace: list[tuple[str, str]] | None = [] if trace else None
        self._hook: tuple[str, str] | None = None
        self.steps = 0
        self.progress = 0  # operations and sleeps that have come to their end, but for spinning
        self._seen = 0  # ... when tasks that spin last looked
        self._chosen: Task | None = None
        self.hub: greenlet = getcurrent()

    @property
    def hook(self) -> tuple[str, str] | None:
        """The memory type's hook that is running."""
        return self._hook

    @hook.setter
    def hook(self, hook: tuple[str, str] | None) -> None:
        self._hook = hook
        RECORD.hook = hook[0] if hook else ""

    def use(self, scheduler: Scheduler, *, every_point: bool = False) -> None:
        """From now on this one decides; it begins a run.

        `every_point`: it is asked also where only one task can run.
        """
        self.scheduler = scheduler
        self.preemptive = scheduler.preemptive
        self._every_point = every_point
        scheduler.new_run()

    def point(self, name: str) -> None:
        """The current task may be preempted here."""
        if self.trace is not None and self.current is not None:
            self.trace.append((self.current.name, name))
        if not self.preemptive or not (self.runnable or self._every_point):
            return
        me = self.current
        if me is None or self.hook is not None:
            return
        choices = [me, *self.runnable]
        chosen = self.scheduler.next_task(choices, name)
        if chosen:
            self._chosen = self.runnable.pop(chosen - 1)
            self.runnable.append(me)
            self.hub.switch()

    def block(self, waits: Wait) -> None:
        """The current task sleeps until `wake`; raises Killed if its process ended meanwhile."""
        if self.hook is not None:
            raise ContractBreach(*self.hook, "a hook must not sleep: locks are held around it")
        me = self.current
        if me is None:
            raise Deadlock([("the caller outside of any task", waits.tell())])
        if me.killed and waits.kind != "lock":  # on its way out it sleeps no more
            if waits.give_up is not None:
                waits.give_up()
            raise Killed
        if self.trace is not None:
            self.trace.append((me.name, "sleep." + waits.kind))
        me.interrupted = False
        self.progress += waits.kind != SPINS
        me.waits = waits
        self.sleeping[me] = None
        self.hub.switch()
        if me.killed and waits.kind != "lock":
            raise Killed

    def spin(self, tell: Callable[[], str]) -> None:
        """The current task tries again and again: it goes on once anybody else has done a thing."""
        self.block(Wait(SPINS, tell))

    def _spun(self) -> bool:
        """Let tasks that spin look again; False if nothing has happened since they did."""
        if self.progress == self._seen:
            return False
        self._seen = self.progress
        spinning = [t for t in self.sleeping if t.waits is not None and t.waits.kind == SPINS]
        for task in spinning:
            self.wake(task)
        return bool(spinning)

    def wake(self, task: Task) -> None:
        """A sleeping task can run again."""
        if task.waits is not None:
            task.waits = None
            del self.sleeping[task]
            self.runnable.append(task)
            if RECORD.on:
                RECORD.writes.add(("wake", task.tid))
                RECORD.adds.add(("asleep", task.tid))  # a signal then finds nothing to end

    def run(self, until: Operation | None = None) -> None:
        """Let tasks run until none can, or `until` is done.  Raises Deadlock (see `stuck`)."""
        if self.current is not None:
            raise RuntimeError("the machine is run from outside of its tasks")
        self.hub = getcurrent()
        runnable = self.runnable
        while True:
            task = self._chosen
            if task is not None:
                self._chosen = None
            elif not runnable:
                if self._spun():
                    continue
                break
            elif len(runnable) == 1 and not self._every_point:
                task = runnable.pop()
            else:
                task = runnable.pop(self.scheduler.next_task(runnable, "pick"))
            self.current = task
            self.steps += 1
            try:
                task.resume()
            finally:
                self.current = None
            if until is not None and until.done:
                return
        if any(task.waits is not None and task.waits.kind == "lock" for task in self.sleeping):
            raise Deadlock(self.stuck())

    def stuck(self) -> list[tuple[str, str]]:
        """Every sleeping task and what it waits for."""
        return [(task.name, task.waits.tell()) for task in self.sleeping if task.waits is not None]
