"""One batch of random programs, in a process of its own: what `userfault check --fuzz` starts.

The batch comes as the argument, in JSON; reports go to standard output, one JSON object a line.
"""

from __future__ import annotations

import sys
import time

import click
import msgspec

from userfault.check.differential.batch import Batch, Finding, Runner, each
from userfault.check.differential.found import kernels
from userfault.check.differential.program import Program
from userfault.cli import interrupts

_REPORT_S = 0.5


class Progress(msgspec.Struct, frozen=True):
    """Programs and steps so far, and the coverage as (verb, memory, reached, succeeded).

    `diverging`: programs that diverge, of which one of each kind is among the findings.
    `rescheduled`: programs that agree under another schedule of the model than its first.
    """

    programs: int
    steps: int
    diverging: int = 0
    rescheduled: int = 0
    findings: tuple[Finding, ...] = ()
    coverage: tuple[tuple[str, str, int, int], ...] = ()


class _Counting:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._programs = self._steps = self._diverging = 0
        self._kinds: set[str] = set()
        self._reported = time.monotonic()

    def run(self, program: Program) -> None:
        with interrupts.deferred():
            found = self._runner.run(program)
        self._programs += 1
        self._steps += len(program)
        findings: tuple[Finding, ...] = ()
        if found is not None:
            self._diverging += 1
            if found.kind not in self._kinds:  # another of its kind tells nothing new
                self._kinds.add(found.kind)
                findings = (self._runner.examine(found),)
        if findings or time.monotonic() - self._reported > _REPORT_S:
            self.report(*findings)

    def report(self, *findings: Finding) -> None:
        progress = Progress(
            self._programs,
            self._steps,
            self._diverging,
            self._runner.rescheduled,
            findings,
            self._runner.coverage.counted(),
        )
        click.echo(msgspec.json.encode(progress))
        self._reported = time.monotonic()


def _main() -> None:
    interrupts.unwind_on_signals()
    batch = msgspec.json.decode(sys.argv[1], type=Batch)
    counting = _Counting(Runner(*kernels()))
    for program in each(batch):
        counting.run(program)
    counting.report()


if __name__ == "__main__":
    try:
        _main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)
