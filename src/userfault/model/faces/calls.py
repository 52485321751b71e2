"""The model behind the protocol of system calls (`userfault.kernel.calls.CallKernel`)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import size_name
from userfault.kernel.protocol import State
from userfault.model import invariants
from userfault.model.errors import Deadlock, Killed
from userfault.model.faces.syscalls import perform
from userfault.model.files.open_files import O_RDWR, DevNull
from userfault.model.machine import Machine
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.mm.special import map_specials
from userfault.model.process import Process, Processes, Thread
from userfault.model.profiles import NEXT, Config, Profile
from userfault.model.tasks.sched import Operation, Scheduler


class ModelPending:
    """A call that a task was given."""

    __slots__ = ("_operation", "call")

    def __init__(self, call: calls.Call, operation: Operation) -> None:
        self.call = call
        self._operation = operation

    @property
    def state(self) -> State:
        return self._operation.state

    @property
    def waits_for(self) -> str:
        return self._operation.waits_for

    def result(self, timeout_s: float = 0.0) -> Result:
        """The result, running the machine until it is there; raises TimeoutError where it cannot.

        There is no time in a model: `timeout_s` is not looked at.
        """
        del timeout_s
        try:
            result: Result = self._operation.get()
        except Killed:
            return Result(errno=errno.ESRCH)
        except Deadlock as stuck:
            raise TimeoutError(f"{self.call}: {stuck}") from stuck
        return result


class ModelTask:
    """A thread."""

    __slots__ = ("_task",)

    def __init__(self, task: Thread) -> None:
        self._task = task

    @property
    def thread_id(self) -> int:
        return self._task.tid

    def call(self, call: calls.Call) -> ModelPending:
        """Give it a call; it runs when the kernel settles or a result is asked for."""
        if isinstance(call, calls.WITNESSES):
            return _look(self._task, call)
        task = self._task
        return ModelPending(call, task.submit(lambda: perform(task, call)))


def _look(task: Thread, call: calls.Call) -> ModelPending:
    """Do it now, outside of any task."""
    operation = Operation(task, lambda: perform(task, call))
    operation.run()
    return ModelPending(call, operation)


class ModelProcess:
    """An address space with tasks and descriptors."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.tasks: list[calls.CallTask] = [ModelTask(task) for task in process.threads]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.alive

    def task(self) -> ModelTask:
        """A new thread."""
        task = ModelTask(self.process.thread())
        self.tasks.append(task)
        return task

    def look(self, wanted: Sequence[calls.Call]) -> list[ModelPending]:
        """Look from outside of the tasks."""
        task = self.process.threads[0]
        return [_look(task, call) for call in wanted]


class ModelCalls:
    """The model as a kernel for one program of system calls.

    `types`: memory types from outside.  `memfd`: which type the files of memfd_create(2) are, so
    that a program written for one type runs on another.  `checking`: walk every invariant
    whenever the kernel settles.
    """

    def __init__(
        self,
        profile: Profile = NEXT,
        config: Config | None = None,
        *,
        scheduler: Scheduler | None = None,
        trace: bool = False,
        types: Iterable[MemoryOps] = (),
        memfd: str = SHMEM.name,
        checking: bool = False,
    ) -> None:
        self.machine = Machine(
            profile, config, scheduler=scheduler, trace=trace, types=types, memfd=memfd
        )
        self._processes = Processes(self.machine)
        self._known: dict[int, ModelProcess] = {}
        self._checking = checking

    @property
    def name(self) -> str:
        design = self.machine.config.design
        named = f", design {design}" if design != Config().design else ""
        return f"model {self.machine.profile.name}{named}"

    @property
    def release(self) -> tuple[int, int]:
        return self.machine.profile.release

    @property
    def processes(self) -> dict[int, calls.CallProcess]:
        found: dict[int, calls.CallProcess] = {}
        for pid, process in self._processes.by_pid.items():
            known = self._known.get(pid)
            if known is None:
                known = self._known[pid] = ModelProcess(process)
            found[pid] = known
        return found

    def process(self) -> calls.CallProcess:
        """A fresh process with one task and descriptors 0 to 2."""
        process = self._processes.spawn()
        null = DevNull(O_RDWR)
        for _ in range(calls.FIRST_FD):
            process.install(null)
        map_specials(process.mm, self.machine.types["special"])
        return self.processes[process.pid]

    def hugepages(self, page_size: int, pages: int) -> None:
        """See to it that this many pages of a pool are free."""
        pool = self.machine.memory.pools.get(page_size.bit_length() - 1)
        if pool is None:
            raise MemoryUnavailable(f"no hugetlb pages of {size_name(page_size)}")
        pool.grow(max(pages - (pool.free - pool.reserved), 0))

    def swap(self) -> None:
        """There is none."""
        raise MemoryUnavailable("the model has no swap space")

    def settle(self, timeout_s: float = 0.0) -> None:
        """Let tasks run until none can."""
        del timeout_s
        self.machine.sched.run()
        if self._checking:
            invariants.check(self.machine.spaces)

    def close(self) -> None:
        """End every process, and see that nothing is left over."""
        for process in list(self._processes.by_pid.values()):
            process.exit(0)
        self.machine.sched.run()
        invariants.check(self.machine.spaces)
