"""One program on two kernels, compared after every step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from userfault.check.differential import witness
from userfault.check.differential.areas import Area
from userfault.check.differential.coverage import Coverage
from userfault.check.differential.program import Pages, Program, Spot, Step, areas_of
from userfault.check.differential.record import Ended, Entry, Given, Hired, Line, Looked, Sleeper
from userfault.check.differential.schedules import Scripted, others
from userfault.check.differential.side import (
    BROKE,
    HANG,
    PATIENCE_S,
    SPINS_FOR_EVER,
    Answer,
    Common,
    Side,
    messages,
)
from userfault.check.differential.verbs import MESSAGE, WAKERS, Scope, calls_of
from userfault.kernel import calls
from userfault.kernel.calls import Call, CallKernel, Result
from userfault.model.faces.calls import ModelCalls
from userfault.model.tasks.sched import Scheduler
from userfault.uapi import userfaultfd as abi

ModelFactory: TypeAlias = Callable[[Scheduler], CallKernel]

_TASKS = 6  # of a process; steps for which all sleep are left out
_PROCESSES = 3
_ALL_MESSAGES = 64 * MESSAGE


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


class _Spins(Exception):  # noqa: N818  # what was seen
    """On both kernels a call tries again and again for ever: nothing can be compared after that."""


class _Differs(Exception):  # noqa: N818  # what was seen
    """The last entry says how."""


class Pair:
    """A program's run.  `close()` ends every process of it.

    Which way the program goes (who is idle, what a child inherits) the live kernel alone says;
    the model has to answer the same, under one schedule from the beginning to the end.  In place
    of the live kernel there may be another model; `common`: what both of them offer.
    """

    def __init__(
        self,
        live: CallKernel,
        model: ModelFactory,
        coverage: Coverage,
        patience_s: float = PATIENCE_S,
        common: Common | None = None,
    ) -> None:
        self._kernel = live
        self._modelled = isinstance(live, ModelCalls)
        self._common = common
        self._patience_s = patience_s
        self._make_model = model
        self._scheduler = Scripted()
        self._coverage = coverage
        self._scopes: list[Scope] = []
        self._sleepers: list[Sleeper] = []
        self._record: list[Entry] = []
        self._number = 0
        # Several tasks were woken at once, so that their next messages come in any order.
        self._shuffled = False
        self.rescheduled = False  # the schedule that agrees is not the model's first one
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
        except _Spins:
            return None
        except _Differs:
            return Divergence(program, number, tuple(self.lines()))
        return None

    def lines(self) -> list[Line]:
        """Both traces up to now."""
        return [line for entry in self._record for line in entry.lines()]

    def _begin(self) -> None:
        self._live = Side(
            self._kernel,
            modelled=self._modelled,
            patience_s=self._patience_s,
            common=self._common,
        )
        self._model = self._side(self._scheduler)
        self._scopes.append(Scope())

    def _side(self, scheduler: Scheduler) -> Side:
        return Side(self._make_model(scheduler), modelled=True, common=self._common)

    # --- Both kernels -----------------------------------------------------------------------------

    def _do(self, entry: Entry) -> tuple[Answer, ...]:
        """What the live kernel answers, which the model answers too."""
        entry.begin(self._live)
        entry.ours = _play(entry, self._model)
        entry.theirs = entry.end(self._live)
        self._record.append(entry)
        if SPINS_FOR_EVER in entry.ours and (
            str(entry.theirs[0]).startswith(HANG) or SPINS_FOR_EVER in entry.theirs
        ):
            raise _Spins
        if any(isinstance(answer, str) and answer.startswith(BROKE) for answer in entry.theirs):
            raise _Differs  # a model that leads; the other one may have broken in the same way
        if entry.ours != entry.theirs:
            self._reschedule(entry)
        return entry.theirs

    def _reschedule(self, entry: Entry) -> None:
        """Find the schedule under which the model answers as the live kernel did, always."""
        # A model that breaks is wrong whatever else it could have done; no schedule hangs.
        bad = (BROKE, HANG)
        if any(isinstance(a, str) and a.startswith(bad) for a in (*entry.ours, *entry.theirs)):
            raise _Differs
        for scheduler in others(self._scheduler):
            side = self._side(scheduler)
            answers = []
            for past in self._record:
                answers.append(_play(past, side))
                if answers[-1] != past.theirs:
                    break
            else:
                for past, ours in zip(self._record, answers, strict=True):
                    past.ours = ours
                self._model = side
                self._scheduler = scheduler
                self.rescheduled = True
                return
        raise _Differs

    # --- Steps ------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        if step.process >= len(self._scopes) or not self._live.processes[step.process].alive:
            return
        if step.verb == "fork" and len(self._scopes) >= _PROCESSES:
            return
        if _leaks(step) or _kills(step, self._kernel.release):
            return
        if step.verb in ("kload", "kstore") and any(
            isinstance(sleeper.call, calls.WriteFrom | calls.ReadInto) for sleeper in self._sleepers
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
                result = self._call(step, index, self._whole(call))
                reached = True
                if result is None:
                    break
                self._coverage.count(step, result)
                call = steps.send(result)
        steps.close()
        if reached:
            self._coverage.reached(step)

    def _idle(self, step: Step) -> int | None:
        """The task that does it: the one that is named, else the first one that does not sleep."""
        busy = {sleeper.task for sleeper in self._sleepers if sleeper.process == step.process}
        order = [step.task, *range(_TASKS)]
        index: int | None = next(
            (task for task in order if task < _TASKS and task not in busy), None
        )
        if index is None:
            return None
        while self._live.workers(step.process) <= index:
            self._do(Hired(step.process))
        return index

    def _whole(self, call: Call) -> Call:
        """A read of few messages would show which of them came first: then all are read."""
        if isinstance(call, calls.ReadFd) and self._shuffled and call.length >= MESSAGE:
            return calls.ReadFd(call.fd, _ALL_MESSAGES)
        return call

    def _call(self, step: Step, index: int, call: Call) -> Result | None:
        """What both kernels answered; None if the call sleeps."""
        if self._live.waiting(calls.WAITS_FAULT) > 1 and step.verb in WAKERS | {"events"}:
            self._shuffled = True
        fds = dict(self._scopes[step.process].fds)
        new = Sleeper(self._number, step.process, index, call, fds)
        self._number += 1
        self._sleepers.append(new)
        _, *answers = self._do(Given(str(step), tuple(self._sleepers), shuffled=self._shuffled))
        ended = None
        for one, answer in zip(list(self._sleepers), answers, strict=True):
            if isinstance(answer, Result):
                self._sleepers.remove(one)
                self._ended(one, answer)
                if one is new:
                    ended = answer
        if not self._sleepers:
            self._shuffled = False
        return ended

    def _ended(self, one: Sleeper, result: Result) -> None:
        """A call that both have ended: what it leads to."""
        if isinstance(one.call, calls.Fork) and result.ok:
            self._scopes.append(Scope(one.fds))
        if isinstance(one.call, calls.ReadFd):
            for message in messages(result.data):
                if message[0] == abi.UFFD_EVENT_FORK:
                    self._scopes[one.process].adopt(abi.uffd_msg_fork.struct.unpack(message)[1])

    # --- Looking ----------------------------------------------------------------------------------

    def _look(self, areas: list[Area], *, thorough: bool = False) -> None:
        for process, scope in enumerate(self._scopes):
            if self._live.processes[process].alive:
                witness.look(
                    self._asker(process),
                    areas,
                    scope,
                    files=not process,
                    thorough=thorough,
                    rwp=self._rwp,
                )

    def _end(self, areas: list[Area]) -> None:
        self._look(areas, thorough=True)
        for process in range(len(self._scopes)):
            if areas and self._live.processes[process].alive:
                witness.layout(self._asker(process), areas)
        if self._modelled:
            self._do(Ended())

    def _asker(self, process: int) -> witness.Ask:
        def ask(wanted: list[Call]) -> list[Result]:
            answers = self._do(Looked(process, tuple(wanted)))
            return [answer for answer in answers if isinstance(answer, Result)]

        return ask

    def close(self) -> None:
        """End every live process; a model's have no more than memory."""
        if not self._modelled:
            self._kernel.close()


def _play(entry: Entry, model: Side) -> tuple[Answer, ...]:
    entry.begin(model)
    return entry.end(model)


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


def _kills(step: Step, release: tuple[int, int]) -> bool:
    """MOVE of the huge zero page: 6.17 maps a page that is none, and dies (seen on 6.17.13)."""
    thp = any(isinstance(value, Spot) and value.of.memory == "thp" for value in step.args[2:])
    return release == (6, 17) and step.verb == "move" and thp


def _registers_rwp(step: Step) -> bool:
    mode = step.args[-1] if step.verb == "register" else 0
    return isinstance(mode, int) and bool(mode & abi.UFFDIO_REGISTER_MODE_RWP)
