"""`userfault lab run KERNEL... -- check --fuzz`: the model against other kernels.

Programs are drawn and run on the model here; a guest only executes them.
"""

from __future__ import annotations

import random
import sys

from rich.console import Console
from rich.text import Text

from userfault.check.differential.batch import seeds, slices
from userfault.cli.lab.crew import Crew, WorkerLost
from userfault.cli.lab.jobs import BatchJob, BatchPart, ReplayDone, ReplayJob, Setup
from userfault.cli.shared import errors
from userfault.cli.shared.checking.options import PROGRAMS
from userfault.cli.shared.checking.totals import Totals, print_lines, print_totals
from userfault.cli.shared.screen import Screen

_SLICE = 100  # programs: short, so that no worker is left with a long one at the end
_SILENCE_S = 900.0  # of a worker: a divergence that is shrunk runs its program many times


class _Totals(Totals):
    def __init__(self) -> None:
        super().__init__()
        self.lost: list[tuple[str, str]] = []
        self.failures: list[str] = []

    @property
    def bad(self) -> bool:
        return bool(self.diverging or self.lost or self.failures)


def fuzz(setups: list[Setup], programs: int | None, seed: int | None, guests: int) -> int:
    """Run the same random programs on each kernel; the exit code."""
    seed = random.getrandbits(32) if seed is None else seed
    console = Screen()
    bad = False
    for setup in setups:
        with Crew(setup, guests) as crew:
            bad |= _fuzz(crew, console, programs or PROGRAMS, seed).bad
    return errors.FAILED if bad else 0


def _fuzz(crew: Crew, console: Console, programs: int, seed: int) -> _Totals:
    """One kernel."""
    totals = _Totals()
    ready = crew.ready()
    if ready.failure:
        raise WorkerLost(f"{ready.kernel} does not boot", cause=ready.failure)
    console.print(f"{ready.kernel}: seed {seed}: {programs} programs there and on its model\n")
    batches = seeds(seed, programs, huge=True, rwp=ready.rwp)
    jobs = [BatchJob(batch) for batch in slices(batches, _SLICE)]
    try:
        for number, said in crew.run(jobs, _SILENCE_S):
            if isinstance(said, WorkerLost):
                totals.failures.append(str(said))
            if not isinstance(said, BatchPart):
                continue
            totals.report(console, number, said.progress)
            _note(console, totals, said)
    finally:
        print_totals(console, totals, complete=sys.exc_info()[0] is None)
    return totals


def _note(console: Console, totals: _Totals, said: BatchPart) -> None:
    """What a worker has lost."""
    for program, why in said.lost:
        totals.lost.append((program, why))
        console.print(Text(f"\nthe machine was lost: {why}", "bold magenta"))
        console.print(f"the program: {program}\n", soft_wrap=True)
    if said.failure:
        totals.failures.append(said.failure)
        console.print(Text(f"\n{said.failure}", "bold red"))


def replay(setups: list[Setup], text: str) -> int:
    """Run one program on each kernel and its model, and show every call; the exit code."""
    console = Screen()
    bad = False
    for setup in setups:
        with Crew(setup, 1) as crew:
            console.print(crew.ready().kernel)
            for _, said in crew.run([ReplayJob(text)], _SILENCE_S):
                if not isinstance(said, ReplayDone):
                    raise WorkerLost(str(said))
                print_lines(console, list(said.lines))
                console.print(said.failure or ("they differ" if said.differ else "they agree"))
                bad |= said.differ or bool(said.failure)
    return errors.FAILED if bad else 0
