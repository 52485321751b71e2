"""How far a batch of random programs has come: counted where it runs, told to who started it."""

from __future__ import annotations

import msgspec

from userfault.check.differential.batch import Finding, Runner
from userfault.check.differential.pair import Divergence
from userfault.check.differential.program import Program


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


class Tally:
    """What the programs of a batch have come to so far."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._programs = self._steps = self._diverging = 0
        self._kinds: set[str] = set()

    @property
    def programs(self) -> int:
        """How many."""
        return self._programs

    def count(self, program: Program, found: Divergence | None) -> tuple[Finding, ...]:
        """One more program; its divergence is looked into if it is the first of its kind."""
        self._programs += 1
        self._steps += len(program)
        if found is None:
            return ()
        self._diverging += 1
        if found.kind in self._kinds:  # another of its kind tells nothing new
            return ()
        self._kinds.add(found.kind)
        return (self._runner.examine(found),)

    def progress(self, findings: tuple[Finding, ...] = ()) -> Progress:
        """All of it, and what is newly found."""
        return Progress(
            self._programs,
            self._steps,
            self._diverging,
            self._runner.rescheduled,
            findings,
            self._runner.coverage.counted(),
        )
