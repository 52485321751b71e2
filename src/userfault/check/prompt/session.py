"""A program at the prompt: step by step on one model, which of them sleep, and what they answer."""

from __future__ import annotations

import errno

import msgspec

from userfault.check.differential.areas import AREAS, HUGE_PAGES
from userfault.check.differential.program import Spot, Step
from userfault.check.differential.side import messages
from userfault.check.differential.verbs import Scope, calls_of
from userfault.check.prompt.guest import Access, Guests
from userfault.check.prompt.language import Command
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, Call, Result
from userfault.kernel.errors import UsageError
from userfault.kernel.protocol import State
from userfault.model.errors import ContractBreach, Deadlock, InvariantBroken, Killed
from userfault.model.faces.calls import ModelCalls, ModelProcess
from userfault.model.faces.syscalls import perform
from userfault.model.process import Process, Thread
from userfault.model.profiles import Config, Profile
from userfault.model.tasks.sched import Operation, Task
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.uapi import userfaultfd as abi


class Told(msgspec.Struct, frozen=True):
    """A call that has ended, or that sleeps: who made it, what it was, its result."""

    who: str
    call: Call | Access
    result: Result | None
    waits_for: str = ""


class Turn(msgspec.Struct, frozen=True):
    """What one step came to: its own calls, and those that had slept before and have ended now."""

    step: str
    told: tuple[Told, ...]
    broken: str = ""  # a rule of the model


class _Sleeper(msgspec.Struct):
    who: str
    process: int
    thread: Thread
    call: Call | Access
    operation: Operation
    fds: dict[str, int]


class Session:
    """One modelled kernel and the program that it is given; each step walks the model's rules."""

    def __init__(self, profile: Profile, config: Config | None = None) -> None:
        self.kernel = ModelCalls(profile, config, checking=True)
        self.kernel.hugepages(HUGE, HUGE_PAGES)
        self.processes: list[Process] = []
        self.scopes: list[Scope] = []
        self.program: list[Step] = []  # what was done, as `check --program` takes it
        self.beyond = False  # ... and something that programs cannot say
        self._sleepers: list[_Sleeper] = []
        self.folios: dict[str, int] = {}  # by the model's names, which number: for `state`
        self._guests = Guests()
        self._contexts: dict[Context, str] = {}
        self._add(self.kernel.process().pid, Scope())

    def _add(self, pid: int, scope: Scope) -> None:
        process = self.kernel.processes[pid]
        assert isinstance(process, ModelProcess)
        self.processes.append(process.process)
        self.scopes.append(scope)

    def names(self) -> dict[Task, str]:
        """Every thread, as programs call it."""
        return {
            thread: name(number, index)
            for number, each in enumerate(self.processes)
            for index, thread in enumerate(each.threads)
        }

    @property
    def sleeping(self) -> list[tuple[str, Call | Access, str]]:
        """Who sleeps, in which call, and what it waits for."""
        found = []
        for one in self._sleepers:
            waits = one.thread.waits
            told = waits.tell() if waits is not None else one.operation.waits_for
            found.append((one.who, one.call, told))
        return found

    def run(self, command: Command) -> list[Turn]:
        """Do what a line says.  Raises UsageError where that cannot be."""
        steps = list(command.steps)
        if any(_takes_from_src(step) for step in steps) and not self._mapped("src"):
            steps.insert(0, Step(steps[0].process, 0, "map", ("src",)))
        return [self._step(step, named=command.named) for step in steps]

    def _name_contexts(self) -> None:
        """Userfaultfds have their own names from now on wherever the model tells of them."""
        for process, scope in zip(self.processes, self.scopes, strict=True):
            for called, fd in scope.fds.items():
                file = process.fds.get(fd)
                if file is not None and isinstance(file[0], UffdFile):
                    context = file[0].context
                    context.name = self._contexts.setdefault(context, called)

    def _mapped(self, area: str) -> bool:
        return self.processes[0].mm.find(AREAS[area].address) is not None

    def _step(self, step: Step, *, named: bool) -> Turn:
        step, thread = self._who(step, named=named)
        told: list[Told] = []
        try:
            self._calls(step, thread, told)
        except (InvariantBroken, ContractBreach, Deadlock) as broken:
            return Turn(str(step), tuple(told), str(broken))
        self._name_contexts()
        if step.verb == "guest":
            self.beyond = True
        else:
            self.program.append(step)
        return Turn(str(step), tuple(told))

    def _calls(self, step: Step, thread: Thread, told: list[Told]) -> None:
        if step.verb == "guest":
            what, spot = step.args
            assert isinstance(what, str)
            assert isinstance(spot, Spot)
            self._give(step, thread, Access(what, spot), told)
            return
        generator = calls_of(step, self.scopes[step.process])
        call = next(generator, None)
        while call is not None:
            result = self._give(step, thread, call, told)
            if result is None:
                generator.close()
                return
            try:
                call = generator.send(result)
            except StopIteration:
                return

    # --- tasks -----------------------------------------------------------------------------------

    def _who(self, step: Step, *, named: bool) -> tuple[Step, Thread]:
        """The task that is named, else the first that does not sleep."""
        if step.process >= len(self.processes):
            raise UsageError(
                f"there is no process c{step.process}",
                cause=f"{len(self.processes) - 1} were made by fork",
                cure="`fork` first; with EVENT_FORK the event has to be read before it exists",
            )
        if not self.processes[step.process].alive:
            raise UsageError(f"process c{step.process} has ended")
        busy = {one.who for one in self._sleepers}
        index = step.task
        while name(step.process, index) in busy:
            if named:
                who = name(step.process, index)
                told = next(wait for one, _, wait in self.sleeping if one == who)
                raise UsageError(
                    f"task {who} sleeps",
                    cause=f"it waits for {told}",
                    cure="leave the task out, or name one that does not: `1 ...`",
                )
            index += 1
        threads = self.processes[step.process].threads
        while len(threads) <= index:
            self.processes[step.process].thread()
        return msgspec.structs.replace(step, task=index), threads[index]

    def _give(
        self, step: Step, thread: Thread, call: Call | Access, told: list[Told]
    ) -> Result | None:
        """Have a task make a call, and let all tasks run; None if it sleeps."""
        if isinstance(call, Access):
            access = call
            operation = thread.submit(lambda: self._guests.does(thread, access.what, access.spot))
        else:
            operation = thread.submit(lambda: perform(thread, call))
        who = name(step.process, step.task)
        fds = dict(self.scopes[step.process].fds)
        new = _Sleeper(who, step.process, thread, call, operation, fds)
        self._sleepers.append(new)
        self.kernel.settle()
        ended: Result | None = None
        for one in list(self._sleepers):
            if one.operation.state is not State.DONE:
                continue
            self._sleepers.remove(one)
            result = _result(one.operation)
            told.append(Told(one.who, one.call, result))
            self._ended(one, result)
            if one is new:
                ended = result
        if ended is None:
            told.append(Told(who, call, None, operation.waits_for))
        return ended

    def _ended(self, one: _Sleeper, result: Result) -> None:
        """What a call leads to that has ended."""
        if isinstance(one.call, calls.Fork) and result.ok:
            self._add(result.value, Scope(one.fds))
        if isinstance(one.call, calls.ReadFd):
            for message in messages(result.data):
                if message[:1] == bytes([abi.UFFD_EVENT_FORK]):
                    fd = abi.uffd_msg_fork.struct.unpack(message)[1]
                    self.scopes[one.process].adopt(fd)


def _result(operation: Operation) -> Result:
    try:
        result: Result = operation.get()
    except Killed:
        return Result(errno=errno.ESRCH)
    return result


def name(process: int, task: int) -> str:
    """A task, as programs call it."""
    return f"c{process}.{task}" if process else str(task)


def _takes_from_src(step: Step) -> bool:
    source = step.args[2] if step.verb in ("copy", "move") and len(step.args) > 2 else None
    return isinstance(source, Spot) and source.area == "src"
