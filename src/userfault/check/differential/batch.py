"""Many random programs in one process, and what became of them.

A process runs a batch and no more, so that whatever it leaves behind in memory is gone after that;
`seeds` gives each batch of a run its own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import msgspec

from userfault.check.differential.coverage import Coverage
from userfault.check.differential.draw import EVERY_FEATURE, program
from userfault.check.differential.pair import Divergence, ModelFactory, Pair
from userfault.check.differential.pool import Pool
from userfault.check.differential.program import Program, to_text
from userfault.check.differential.record import Line
from userfault.check.differential.shrink import shrink
from userfault.check.differential.side import PATIENCE_S
from userfault.check.differential.twins import Twins
from userfault.check.run import KernelFactory
from userfault.kernel.errors import MemoryUnavailable

BATCH = 2000
_RUNS_AGAIN = 3
_PATIENCE_TO_SHRINK_S = 10.0  # with a kernel that hung: each attempt takes that long
_TRIES = 5  # for a program whose huge pages others take


class Batch(msgspec.Struct, frozen=True):
    """What to draw: how many programs, from which seed, with or without huge pages.

    `rwp`: for a kernel with RWP (7.3).  `skip`: this many are drawn before, and not run: another
    process has them.  `features`: what a handshake may ask for.  `model` and `against`: two
    profiles in place of this kernel and its model, `design`: of both.
    """

    programs: int
    seed: int
    huge: bool = True
    rwp: bool = False
    skip: int = 0
    features: int = EVERY_FEATURE
    model: str = ""
    against: str = ""
    design: str = ""


class Finding(msgspec.Struct, frozen=True):
    """A divergence, as small as it got: no schedule of the model does what the kernel did.

    `steady`: it showed again when the same program ran again.  `because`: of two profiles, what
    makes the difference.
    """

    program: str
    kind: str
    steady: bool
    lines: tuple[tuple[str, str, str], ...]
    because: tuple[str, ...] = ()


class Runner:
    """Runs programs on a pair of fresh kernels each, and counts."""

    def __init__(
        self,
        live: KernelFactory,
        model: ModelFactory,
        pool: Pool | None = None,
        patience_s: float = PATIENCE_S,
        twins: Twins | None = None,
    ) -> None:
        self._live = live
        self._model = model
        self._pool = pool
        self._patience_s = patience_s
        self._twins = twins
        self.coverage = Coverage()
        self.rescheduled = 0  # programs for which the model's first schedule would not do

    def run(self, program: Program) -> Divergence | None:
        """The divergence of one program, if there is one."""
        for _ in range(_TRIES):
            if self._pool is not None:
                self._pool.fill_up()
            with contextlib.closing(self._pair()) as pair:
                found = pair.run(program)
                self.rescheduled += pair.rescheduled
            # Where somebody took the program's huge pages meanwhile, it says nothing.
            if found is None or self._pool is None or not self._pool.fill_up():
                return found
        raise MemoryUnavailable(
            "the huge pages of random programs do not stay free",
            cause="other programs take them again and again",
            cure="run it when they have ended, or enlarge the pool",
        )

    def trace(self, program: Program) -> tuple[Divergence | None, list[Line]]:
        """The same, with every line of the traces."""
        with contextlib.closing(self._pair()) as pair:
            return pair.run(program), pair.lines()

    def _pair(self) -> Pair:
        common = self._twins.common if self._twins is not None else None
        return Pair(self._live(), self._model, self.coverage, self._patience_s, common)

    def examine(self, found: Divergence) -> Finding:
        """Shrink a divergence that shows again, and make it a finding."""
        quiet = Runner(self._live, self._model, self._pool, _PATIENCE_TO_SHRINK_S, self._twins)
        again = next(filter(None, (quiet.run(found.program) for _ in range(_RUNS_AGAIN))), None)
        if again is not None:
            found = shrink(quiet.run, again)
        lines = tuple((line.what, line.live, line.model) for line in found.lines)
        because: tuple[str, ...] = ()
        if self._twins is not None and not self._twins.alone:
            because = self._twins.because(found.program, found.kind)
        return Finding(to_text(found.program), found.kind, again is not None, lines, because)


def of_twins(twins: Twins, seed: int, programs: int) -> Iterator[Batch]:
    """The batches of a run on two models."""
    for batch in seeds(seed, programs, huge=True, rwp=twins.rwp):
        yield msgspec.structs.replace(
            batch,
            features=twins.common.features,
            model=twins.first.name,
            against="" if twins.alone else twins.second.name,
            design=twins.design,
        )


def seeds(seed: int, programs: int, *, huge: bool, rwp: bool = False) -> Iterator[Batch]:
    """The batches of a run."""
    draw = random.Random(seed)
    for begin in range(0, programs, BATCH):
        yield Batch(min(BATCH, programs - begin), draw.getrandbits(32), huge, rwp)


def each(batch: Batch) -> Iterator[Program]:
    """The programs of a batch."""
    draw = random.Random(batch.seed)
    for number in range(batch.skip + batch.programs):
        drawn = program(draw.randrange, huge=batch.huge, rwp=batch.rwp, features=batch.features)
        if number >= batch.skip:
            yield drawn


def slices(batches: Iterator[Batch], length: int) -> Iterator[Batch]:
    """The same programs in batches of at most this length."""
    for batch in batches:
        for begin in range(0, batch.programs, length):
            programs = min(length, batch.programs - begin)
            yield msgspec.structs.replace(batch, programs=programs, skip=batch.skip + begin)
