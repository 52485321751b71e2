"""The running Linux behind the protocols of `kernel/calls.py`.

A LiveKernel is for one program.  Each of its processes is an agent (agent/agent.c) of its own; a
forked child calls back on a socket.  Nothing here waits without a limit, whatever an agent does:
a hang shows as TimeoutError, a crash as a process that is not alive.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from userfault.check.live import wire
from userfault.check.live.agent.build import NoAgent
from userfault.check.live.host import Host, ThisHost
from userfault.check.live.link import Link
from userfault.check.live.sleeps import Sleeps
from userfault.check.live.steps.requests import Place, Steps
from userfault.check.live.steps.table import looking, steps
from userfault.check.live.wire import CONTROL, Kind, Op, Reply, Step
from userfault.check.words.outcome import Lost
from userfault.kernel import calls
from userfault.kernel.calls import Call, Result
from userfault.kernel.protocol import State

_CALLED = Reply(CONTROL, Kind.REPLY, 0, None, b"")
_ENDED = Result(errno=3)  # ESRCH
_START_S = 10.0
# The agent's exit status when it cannot put its socket at its place.
_NO_DESCRIPTOR = 8


class LivePending:
    """A call on its way: a generator of steps, and the state that the last look showed."""

    def __init__(self, process: LiveProcess, call: Call, steps_of: Steps) -> None:
        self.call = call
        self.waits_for = ""
        self._process = process
        self._steps = steps_of
        self._started = False
        self._result: Result | None = None

    def next_step(self, reply: Reply | None) -> Step | None:
        """The next request of this call, given the reply to the last; None once it is done."""
        self._started = True
        self.waits_for = ""
        try:
            return next(self._steps) if reply is None else self._steps.send(reply)
        except StopIteration as stop:
            self._result = stop.value
            return None

    def end(self) -> None:
        """The process is gone."""
        self._steps.close()
        self._result = _ENDED

    @property
    def done(self) -> bool:
        return self._result is not None

    @property
    def state(self) -> State:
        if self._result is not None:
            return State.DONE
        if not self._started:
            return State.NOT_STARTED
        return State.BLOCKED if self.waits_for else State.RUNNING

    def result(self, timeout_s: float = 10.0) -> Result:
        deadline = time.monotonic() + timeout_s
        while self._result is None:
            if not self._process.kernel.pump(deadline - time.monotonic()):
                raise TimeoutError(
                    f"not done after {timeout_s} s: {self.call!r} {self.state.value}"
                    f" {self.waits_for}".rstrip()
                )
        return self._result


class LiveTask:
    """A thread of an agent."""

    def __init__(self, process: LiveProcess, index: int, thread_id: int) -> None:
        self.thread_id = thread_id
        self.index = index
        self._process = process
        self._queue: deque[LivePending] = deque()

    @property
    def current(self) -> LivePending | None:
        """The call that it is at."""
        return self._queue[0] if self._queue else None

    def call(self, call: Call) -> LivePending:
        if isinstance(call, calls.WITNESSES):
            return self._process.look([call])[0]
        pending = LivePending(self._process, call, steps(call, self._process.place))
        if not self._process.alive:
            pending.end()
            return pending
        self._queue.append(pending)
        if len(self._queue) == 1:
            self.advance(None)
        return pending

    def advance(self, reply: Reply | None) -> None:
        """Send the next request: of the call whose reply this is, or of the next call."""
        while self._queue:
            step = self._queue[0].next_step(reply)
            if step is not None:
                self._process.request(step, self)
                return
            self._queue.popleft()
            reply = None

    def end(self) -> None:
        """The process is gone."""
        while self._queue:
            self._queue.popleft().end()


class LiveProcess:
    """One agent: its tasks, and its control thread, which answers in the order of requests."""

    def __init__(self, kernel: LiveKernel, pid: int, link: Link) -> None:
        self.kernel = kernel
        self.pid = pid
        self.alive = True
        self.tasks: list[calls.CallTask] = []
        self.place = Place(
            pid, kernel.host.directory, kernel.host.callback_address, kernel.host.memfds
        )
        self._threads: list[LiveTask] = []
        self._link = link
        # Who waits for the control thread's next answers: a task, or a look at the states.
        self._control: deque[Callable[[Reply], None]] = deque()
        self._witnesses: deque[LivePending] = deque()

    def task(self) -> LiveTask:
        self.request(Step(Op.TASK, control=True), None)
        return self.await_task(len(self._threads))

    def await_task(self, index: int) -> LiveTask:
        """The task with this number, once it has said hello."""
        deadline = time.monotonic() + _START_S
        while len(self._threads) <= index and self.alive:
            if not self.kernel.pump(deadline - time.monotonic()):
                raise TimeoutError("the agent started no task")
        if not self.alive:
            raise self.kernel.lost(self)
        return self._threads[index]

    def request(self, step: Step, task: LiveTask | None) -> None:
        """Send a step; its reply goes to the task that it is for."""
        if step.op is Op.CHILD and task is not None:
            self.kernel.expect(step.number, task)
            return
        if step.control and task is not None:
            self._control.append(task.advance)
        self._link.send(step.encode(task.index if task else CONTROL))

    def look(self, wanted: Sequence[Call]) -> list[LivePending]:
        """Have the control thread look: it needs no task, and waits for none.

        All goes out at once, and the answers come back so: each wake-up would cost more than they.
        """
        found = [LivePending(self, call, looking(call)) for call in wanted]
        requests = []
        for pending in found:
            if not self.alive:
                pending.end()
                continue
            step = pending.next_step(None)
            assert step is not None
            self._witness(pending, step)
            requests.append(step.encode(CONTROL))
        self._link.send(*requests)
        return found

    @property
    def looking(self) -> bool:
        """True while the control thread is at witnesses."""
        return bool(self._witnesses)

    def _witnessed(self, reply: Reply) -> None:
        pending = self._witnesses.popleft()
        step = pending.next_step(reply)
        if step is not None:  # it has to look again
            self._witness(pending, step)
            self._link.send(step.encode(CONTROL))

    def _witness(self, pending: LivePending, step: Step) -> None:
        """The control thread's next answer is this one's."""
        assert step.control
        self._witnesses.append(pending)
        self._control.append(self._witnessed)

    def ask_states(self, answer: Callable[[Reply], None]) -> None:
        """Ask where each task sleeps; `answer` gets the reply."""
        self._control.append(answer)
        self.request(Step(Op.STATES, control=True), None)

    @property
    def link(self) -> Link:
        return self._link

    @property
    def busy(self) -> list[LiveTask]:
        """Tasks that are at a call."""
        return [task for task in self._threads if task.current]

    def receive(self) -> bool:
        """Take in what the agent has sent; True if there was anything."""
        anything = False
        for reply in self._link.replies():
            anything = True
            if reply.kind is Kind.HELLO:
                self._threads.append(LiveTask(self, reply.task, reply.value))
                self.tasks.append(self._threads[-1])
            elif reply.task == CONTROL:
                self._control.popleft()(reply)
            else:
                self._threads[reply.task].advance(reply)
        if self._link.closed and self.alive:
            anything = True
            self.alive = False
            for task in self._threads:
                task.end()
            while self._witnesses:
                self._witnesses.popleft().end()
        return anything


class LiveKernel:
    """A Linux that runs, for one program: this one, or that of another host."""

    def __init__(self, host: Host | None = None) -> None:
        self.processes: dict[int, LiveProcess] = {}
        self.host = host or ThisHost()
        self._expected: dict[int, LiveTask] = {}  # children that have not called yet

    @property
    def name(self) -> str:
        return f"Linux {self.host.release}"

    @property
    def release(self) -> tuple[int, int]:
        major, minor = self.host.release.split(".")[:2]
        return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)

    def process(self) -> LiveProcess:
        return self._add(*self.host.spawn())

    def _add(self, pid: int, link: Link) -> LiveProcess:
        process = LiveProcess(self, pid, link)
        self.processes[pid] = process
        process.await_task(0)
        return process

    def hugepages(self, page_size: int, pages: int) -> None:
        self.host.hugepages(page_size, pages)

    def swap(self) -> None:
        self.host.swap()

    # --- Children ---------------------------------------------------------------------------------

    def expect(self, pid: int, task: LiveTask) -> None:
        """Reply to a task once this child has called; fork(2) may return long before."""
        if pid in self.processes:
            task.advance(_CALLED)
        else:
            self._expected[pid] = task

    def _welcome(self) -> bool:
        """Take in children that have called; True if there was one."""
        anything = False
        for pid, link in self.host.callers():
            self._add(pid, link)
            if pid in self._expected:
                self._expected.pop(pid).advance(_CALLED)
            anything = True
        return anything

    # --- Time -------------------------------------------------------------------------------------

    def pump(self, timeout_s: float) -> bool:
        """Take in what agents have sent, waiting up to `timeout_s`; False if nothing came."""
        if self._receive():
            return True
        if timeout_s <= 0:
            return False
        alive = [process.link for process in self.processes.values() if process.alive]
        # A part of a long reply is something too: who waits for the rest waits on.
        came = self.host.wait(alive, timeout_s)
        return self._receive() or came

    def _receive(self) -> bool:
        anything = self._welcome()
        for process in list(self.processes.values()):
            anything |= process.alive and process.receive()
        return anything

    def settle(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        sleeps = Sleeps()
        quiet_rounds = 0
        while True:
            while self._receive():
                quiet_rounds = 0
            while any(process.looking for process in self.processes.values()):
                if not self.pump(deadline - time.monotonic()):
                    raise TimeoutError("an agent does not answer")
            busy = [process for process in self.processes.values() if process.busy]
            if not busy:
                return
            if self._look(busy, sleeps, deadline):
                quiet_rounds += 1
            else:
                quiet_rounds = 0
            # One task can only be woken by us; several may have woken each other meanwhile.
            if quiet_rounds >= (1 if sum(len(process.busy) for process in busy) == 1 else 2):
                return
            if time.monotonic() > deadline:
                running = [task.current for process in busy for task in process.busy]
                told = ", ".join(
                    f"{p.call!r} ({p.waits_for or 'runs'})" for p in running if p is not None
                )
                raise TimeoutError(f"tasks still run after {timeout_s} s: {told}")

    def _look(self, busy: list[LiveProcess], sleeps: Sleeps, deadline: float) -> bool:
        """One look at every busy task; True if each of them sleeps, and none was heard of."""
        quiet = True
        for process in busy:
            found: list[Reply] = []
            before = [(task, task.current) for task in process.busy]
            process.ask_states(found.append)
            while not found and process.alive:
                if not self.pump(deadline - time.monotonic()):
                    raise TimeoutError(f"agent {process.pid} does not answer")
            names = wire.states(found[0].data) if found else []
            for task, pending in before:
                if pending is None or pending is not task.current or task.index >= len(names):
                    quiet = False
                    continue
                pending.waits_for = sleeps.waits_for(pending, names[task.index])
                quiet = quiet and bool(pending.waits_for)
        return quiet

    # --- The end ----------------------------------------------------------------------------------

    def lost(self, process: LiveProcess) -> Exception:
        """Why an agent is gone that has not said hello."""
        status = self.host.status(process.pid)
        if status == _NO_DESCRIPTOR:
            return NoAgent(
                "cannot run here: too few descriptors",
                cause="the agent keeps its socket at number 1000",
                cure="raise `ulimit -n` above 1000",
            )
        how = "" if status is None else f" with status {status}"
        return Lost("crash", cause=f"agent {process.pid} ended{how} before it began")

    def close(self) -> None:
        for process in self.processes.values():
            process.link.close()
        self.host.close()


def live_kernel() -> calls.CallKernel:
    """The factory of live kernels of this system."""
    return LiveKernel()
