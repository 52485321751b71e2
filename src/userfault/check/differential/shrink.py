"""A minimal program that still diverges in the same way.

Steps go first, in pieces that get smaller; then what is left is made simpler, argument by
argument.  Every attempt is a run on both kernels, some milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from userfault.check.differential.pair import Divergence
from userfault.check.differential.program import Argument, Pages, Program, Spot, Step

Run: TypeAlias = Callable[[Program], Divergence | None]
_ATTEMPTS = 600
_DEADLINE_S = 60.0  # an attempt that hangs takes ten seconds


class _Shrinker:
    def __init__(self, run: Run, found: Divergence) -> None:
        self._run = run
        self.best = found
        self._left = _ATTEMPTS
        self._deadline = time.monotonic() + _DEADLINE_S

    def attempt(self, program: Program) -> bool:
        """Whether it diverges too: then it is the best one so far."""
        if self._left == 0 or time.monotonic() > self._deadline:
            return False
        self._left -= 1
        found = self._run(program)
        if found is None or found.kind != self.best.kind:
            return False
        self.best = found
        return True


def shrink(run: Run, found: Divergence) -> Divergence:
    """The smallest divergence of the same kind that simple changes lead to."""
    shrinker = _Shrinker(run, found)
    if found.step >= 0:
        shrinker.attempt(found.program[: found.step + 1])
    before: Program = ()
    while before != shrinker.best.program:
        before = shrinker.best.program
        _drop_steps(shrinker)
        _simplify(shrinker)
    return shrinker.best


def _drop_steps(shrinker: _Shrinker) -> None:
    size = max(len(shrinker.best.program) // 2, 1)
    while size:
        at = len(shrinker.best.program) - size
        while at >= 0:
            program = shrinker.best.program
            shrinker.attempt(program[:at] + program[at + size :])
            at = min(at - size, len(shrinker.best.program) - size)
        size //= 2


def _simplify(shrinker: _Shrinker) -> None:
    at = 0
    while at < len(shrinker.best.program):
        for simpler in _simpler(shrinker.best.program[at]):
            program = shrinker.best.program
            if shrinker.attempt((*program[:at], simpler, *program[at + 1 :])):
                break
        else:
            at += 1


def _simpler(step: Step) -> Iterator[Step]:
    """Steps that are simpler in one thing."""
    if step.process or step.task:
        yield msgspec.structs.replace(step, process=0, task=0)
    for place, value in enumerate(step.args):
        for other in _values(value):
            args = (*step.args[:place], other, *step.args[place + 1 :])
            yield msgspec.structs.replace(step, args=args)


def _values(value: Argument) -> Iterator[Argument]:
    if isinstance(value, Spot):
        if value.extra:
            yield Spot(value.area, value.page)
        if value.page:
            yield Spot(value.area, 0, value.extra)
        if value.page > 1:
            yield Spot(value.area, value.page - 1, value.extra)
    elif isinstance(value, Pages):
        if value.extra:
            yield Pages(value.count)
        if value.count > 1:
            yield Pages(1, value.extra)
            yield Pages(value.count - 1, value.extra)
    elif isinstance(value, int):
        for bit in range(value.bit_length()):
            if value >> bit & 1 and value != 1 << bit:
                yield value & ~(1 << bit)
        if value:
            yield 0
