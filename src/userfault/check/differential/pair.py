"""One program on two kernels, compared after every step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from userfault.check.differential import witness
from userfault.check.differential.areas import HUGE_PAGES, Area
from userfault.check.differential.coverage import Coverage
from userfault.check.differential.program import Pages, Program, Step, areas_of
from userfault.check.differential.verbs import MESSAGE, WAKERS, Scope, calls_of
from userfault.check.trace import show_call, show_result
from userfault.kernel import calls
from userfault.kernel.calls import (
    Call,
    CallKernel,
    CallPending,
    CallProcess,
    CallTask,
    Result,
)
from userfault.kernel.protocol import State
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_SETTLE_S = 10.0
_TASKS = 6  # of a process; steps for which all sleep are left out
_PROCESSES = 3
_ALL_MESSAGES = 64 * MESSAGE
_UFFD_WP = 1 << 57
_CHOSEN = 1  # in place of an address that the kernel chose


class Line(msgspec.Struct, frozen=True):
    """One line of the two traces: what was done or looked at, and what each kernel said."""

    what: str
    live: str
    model: str

    @property
    def same(self) -> bool:
        return self.live == self.model


class Divergence(msgspec.Struct, frozen=True):
    """The two kernels did not do the same."""

    program: Program
    step: int  # the number of the step after which it showed; -1: at the end
    lines: tuple[Line, ...]

    @property
    def kind(self) -> str:
        """What to call it while it is shrunk: two with the same kind are taken for one."""
        step = self.program[self.step].verb if self.step >= 0 else "end"
        return f"{step}: {self.lines[-1].what.split('(')[0]}"


class _Differs(Exception):  # noqa: N818  # what was seen
    """The line to say so is the last of the trace."""


class _Side:
    """One of the two kernels, with the processes of the program."""

    def __init__(self, kernel: CallKernel) -> None:
        self.kernel = kernel
        self.processes: list[CallProcess] = []
        self.observers: list[CallTask] = []
        self.threads: dict[int, int] = {}

    def add(self, process: CallProcess) -> None:
        self.processes.append(process)
        self.observers.append(process.task())

    def name_thread(self, task: CallTask, label: int) -> None:
        self.threads[task.thread_id] = label


class _Sleeper(msgspec.Struct, frozen=True):
    """A call that both kernels have not ended yet."""

    process: int
    task: int
    live: CallPending
    model: CallPending
    fds: dict[str, int]  # what was open when it was called: what a child inherits


class Pair:
    """A program's run.  `close()` ends every process of it."""

    def __init__(self, live: CallKernel, model: CallKernel, coverage: Coverage) -> None:
        self._live = _Side(live)
        self._model = _Side(model)
        self._coverage = coverage
        self._workers: list[list[tuple[CallTask, CallTask]]] = []
        self._scopes: list[Scope] = []
        self._sleepers: list[_Sleeper] = []
        self._lines: list[Callable[[], Line]] = []
        # Several tasks were woken at once, so that their next messages come in any order.
        self._shuffled = False
        self._rwp = False

    def run(self, program: Program) -> Divergence | None:
        """Run it; None where the kernels agree to the end."""
        number = -1
        self._rwp = any(map(_registers_rwp, program))
        try:
            self._begin()
            areas = areas_of(program)
            for at, step in enumerate(program):
                number = at
                self._step(step)
                self._look(areas)
            number = -1
            self._end(areas)
        except _Differs:
            return Divergence(program, number, tuple(self.lines()))
        return None

    def lines(self) -> list[Line]:
        """Both traces up to now."""
        return [line() for line in self._lines]

    def _begin(self) -> None:
        live, model = self._live, self._model
        model.kernel.hugepages(calls.HUGE, HUGE_PAGES)
        live.add(live.kernel.process())
        model.add(model.kernel.process())
        self._welcome(Scope())

    def _welcome(self, scope: Scope) -> None:
        """A process that both sides have just got."""
        live, model = self._live.processes[-1], self._model.processes[-1]
        self._workers.append([])
        self._scopes.append(scope)
        self._hire(len(self._scopes) - 1, live.tasks[0], model.tasks[0])

    def _hire(self, process: int, live: CallTask, model: CallTask) -> None:
        workers = self._workers[process]
        label = 100 * process + len(workers)
        self._live.name_thread(live, label)
        self._model.name_thread(model, label)
        workers.append((live, model))

    # --- Steps ------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        if step.process >= len(self._scopes) or not self._live.processes[step.process].alive:
            return
        if step.verb == "fork" and len(self._scopes) >= _PROCESSES:
            return
        if (step.verb == "madvise" and self._spins(step)) or _leaks(step):
            return
        if step.verb in ("kload", "kstore") and any(
            isinstance(sleeper.live.call, calls.WriteFrom | calls.ReadInto)
            for sleeper in self._sleepers
        ):
            return  # it would wait for a lock of the file, which the model has not
        index = self._idle(step)
        if index is None:
            return
        scope = self._scopes[step.process]
        steps = calls_of(step, scope)
        reached = False
        with contextlib.suppress(StopIteration):
            call = next(steps)
            while True:
                self._lines.append(lambda: Line(f"-- {step}", "", ""))
                result = self._call(step, index, self._whole(call))
                reached = True
                if result is None:
                    break
                self._coverage.count(step, result)
                call = steps.send(result)
        steps.close()
        if reached:
            self._coverage.reached(step)

    def _spins(self, step: Step) -> bool:
        """MADV_GUARD_INSTALL over a uffd-wp page of a file never returns (seen on 6.18)."""
        spot = step.spot
        if step.args[-1] != mman.MADV_GUARD_INSTALL or spot is None:
            return False
        look: list[Call] = [calls.Pagemap(spot.address & -calls.PAGE, 2 * spot.of.length)]
        words, _ = self._asker(step.process)(look)[0]
        return any(
            int.from_bytes(words.data[at : at + 8], "little") & _UFFD_WP
            for at in range(0, len(words.data), 8)
        )

    def _idle(self, step: Step) -> int | None:
        """The task that does it: the one that is named, else the first one that does not sleep."""
        busy = {sleeper.task for sleeper in self._sleepers if sleeper.process == step.process}
        order = [step.task, *range(_TASKS)]
        index: int | None = next(
            (task for task in order if task < _TASKS and task not in busy), None
        )
        if index is None:
            return None
        while len(self._workers[step.process]) <= index:
            live = self._live.processes[step.process].task()
            self._hire(step.process, live, self._model.processes[step.process].task())
        return index

    def _whole(self, call: Call) -> Call:
        """A read of few messages would show which of them came first: then all are read."""
        if isinstance(call, calls.ReadFd) and self._shuffled and call.length >= MESSAGE:
            return calls.ReadFd(call.fd, _ALL_MESSAGES)
        return call

    def _call(self, step: Step, index: int, call: Call) -> Result | None:
        """What both kernels answered; None if the call sleeps."""
        live, model = self._workers[step.process][index]
        asleep = sum(1 for one in self._sleepers if one.live.waits_for == calls.WAITS_FAULT)
        if asleep > 1 and step.verb in WAKERS | {"events"}:
            self._shuffled = True
        new = _Sleeper(
            step.process,
            index,
            live.call(call),
            model.call(call),
            dict(self._scopes[step.process].fds),
        )
        self._sleepers.append(new)
        self._settle()
        ended = None
        for one in list(self._sleepers):
            result = self._compare(one)
            if result is not None:
                self._sleepers.remove(one)
                self._ended(one, result)
                if one is new:
                    ended = result
        if not self._sleepers:
            self._shuffled = False
        return ended

    def _settle(self) -> None:
        try:
            self._model.kernel.settle()
        except Exception as error:  # a model that breaks
            self._differ("the model", "", f"broke: {error!r}")
        try:
            self._live.kernel.settle(_SETTLE_S)
        except TimeoutError as error:
            self._differ("coming to rest", f"hang: {error}", "at rest")

    def _compare(self, one: _Sleeper) -> Result | None:
        """The result of a call on both; None if it sleeps on both."""
        live, model = self._answer(one.live, self._live), self._answer(one.model, self._model)
        name = f"{one.process}.{one.task} "
        self._lines.append(lambda: Line(name + show_call(one.live.call), _tell(live), _tell(model)))
        if live != model:
            raise _Differs
        return live if isinstance(live, Result) else None

    def _answer(self, pending: CallPending, side: _Side) -> Result | str:
        if pending.state is not State.DONE:
            return f"sleeps: {pending.waits_for or pending.state.value}"
        result = pending.result()
        if isinstance(pending.call, calls.Fork) and result.ok:
            return Result(1)
        if isinstance(pending.call, calls.ReadFd):
            data = _comparable(result.data, side.threads, self._shuffled)
            return msgspec.structs.replace(result, data=data)
        if isinstance(pending.call, calls.Read) and self._shuffled:
            # Other tasks that were woken with it write to their parts of the page.
            return msgspec.structs.replace(result, data=b"")
        if isinstance(pending.call, calls.Mremap) and _chosen(result.value):
            return msgspec.structs.replace(result, value=_CHOSEN)
        return result

    def _ended(self, one: _Sleeper, result: Result) -> None:
        """A call that both have ended: what it leads to."""
        scope = self._scopes[one.process]
        if isinstance(one.live.call, calls.Fork) and result.ok:
            self._live.add(self._live.kernel.processes[one.live.result().value])
            self._model.add(self._model.kernel.processes[one.model.result().value])
            self._welcome(Scope(one.fds))
        if isinstance(one.live.call, calls.ReadFd):
            for message in _messages(result.data):
                if message[0] == abi.UFFD_EVENT_FORK:
                    scope.adopt(abi.uffd_msg_fork.struct.unpack(message)[1])

    # --- Looking ----------------------------------------------------------------------------------

    def _look(self, areas: list[Area], *, thorough: bool = False) -> None:
        for process, scope in enumerate(self._scopes):
            if not self._live.processes[process].alive:
                continue
            found = witness.look(
                self._asker(process),
                areas,
                scope,
                files=not process,
                thorough=thorough,
                rwp=self._rwp,
            )
            for call, live, model in found:
                self._agree(process, call, live, model)

    def _end(self, areas: list[Area]) -> None:
        self._look(areas, thorough=True)
        for process in range(len(self._scopes)):
            if areas and self._live.processes[process].alive:
                for call, live, model in witness.layout(self._asker(process), areas):
                    self._agree(process, call, live, model)

    def _asker(self, process: int) -> witness.Ask:
        def ask(wanted: list[Call]) -> list[tuple[Result, Result]]:
            live, model = self._live.observers[process], self._model.observers[process]
            theirs = [live.call(call) for call in wanted]
            ours = []
            for call in wanted:
                pending = model.call(call)
                try:
                    ours.append(pending.result())
                except TimeoutError as error:
                    self._differ(show_call(call), "", f"sleeps: {error}")
                except Exception as error:
                    self._differ(show_call(call), "", f"broke: {error!r}")
            try:
                return list(zip((one.result(_SETTLE_S) for one in theirs), ours, strict=True))
            except TimeoutError as error:
                self._differ("looking", f"hang: {error}", "")
                raise

        return ask

    def _agree(self, process: int, call: Call, live: Result, model: Result) -> None:
        if live != model:
            self._differ(f"{process} {show_call(call)}", show_result(live), show_result(model))

    def _differ(self, what: str, live: str, model: str) -> None:
        self._lines.append(lambda: Line(what, live, model))
        raise _Differs

    def close(self) -> None:
        """End every live process; the model's have no more than memory."""
        self._live.kernel.close()


def _leaks(step: Step) -> bool:
    """mremap of a part of a private hugetlb mapping: what was promised to the rest stays promised
    when everything is gone, until the system restarts (seen on 6.18).
    """
    spot = step.spot
    if step.verb != "mremap" or spot is None or spot.of.memory != "hugetlb-private":
        return False
    length = step.args[1]
    whole = isinstance(length, Pages) and length.count == spot.of.pages and not length.extra
    return not whole or bool(spot.page or spot.extra)


def _registers_rwp(step: Step) -> bool:
    mode = step.args[-1] if step.verb == "register" else 0
    return isinstance(mode, int) and bool(mode & abi.UFFDIO_REGISTER_MODE_RWP)


def _tell(answer: Result | str) -> str:
    return answer if isinstance(answer, str) else show_result(answer)


def _chosen(address: int) -> bool:
    """Whether the kernel chose this address itself: those of two kernels differ."""
    return address >= calls.ARENA + calls.ARENA_LENGTH


def _messages(data: bytes) -> list[bytes]:
    return [data[at : at + MESSAGE] for at in range(0, len(data), MESSAGE)]


def _comparable(data: bytes, threads: dict[int, int], shuffled: bool) -> bytes:
    """Messages with thread ids of the program's own; faults sorted where no order is promised."""
    faults, events = [], []
    if len(data) % MESSAGE:
        return data
    for message in _messages(data):
        if message[0] == abi.UFFD_EVENT_REMAP:
            event, start, to, length = abi.uffd_msg_remap.struct.unpack(message)
            to = _CHOSEN if _chosen(to) else to
            events.append(abi.uffd_msg_remap.struct.pack(event, start, to, length))
            continue
        if message[0] != abi.UFFD_EVENT_PAGEFAULT:
            events.append(message)
            continue
        head = message[:-8]
        thread = int.from_bytes(message[24:28], "little")
        label = threads.get(thread, 0xFFFF) if thread else 0
        faults.append(head + (label + 1 if thread else 0).to_bytes(8, "little"))
    return b"".join((sorted(faults) if shuffled else faults) + events)
