"""What random programs came to, in all batches together, and how that is printed."""

from __future__ import annotations

import time
from typing import TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from userfault.check.differential import areas, coverage
from userfault.check.differential.batch import Finding
from userfault.cli.shared import terminal
from userfault.cli.shared.checking.tally import Progress

_SHOWN_S = 5.0


Titles: TypeAlias = tuple[str, str]
TITLES: Titles = ("this kernel", "model")


class Totals:
    """The sums of all batches: of each the last report counts.

    `titles`: what the two kernels are called.  `options`: of `check`, to see a finding again.
    """

    def __init__(self, titles: Titles = TITLES, options: str = "") -> None:
        self._titles = titles
        self._options = options
        self._last: dict[int, Progress] = {}
        self._began = self._shown = time.monotonic()

    programs = property(lambda self: sum(part.programs for part in self._last.values()))
    steps = property(lambda self: sum(part.steps for part in self._last.values()))
    diverging = property(lambda self: sum(part.diverging for part in self._last.values()))
    rescheduled = property(lambda self: sum(part.rescheduled for part in self._last.values()))

    def coverage(self) -> coverage.Coverage:
        """What the programs reached."""
        found = coverage.Coverage()
        for part in self._last.values():
            for verb, memory, reached, succeeded in part.coverage:
                found.steps[verb, memory] += reached
                found.successes[verb, memory] += succeeded
        return found

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def report(self, console: Console, number: int, progress: Progress) -> None:
        """Take in the report of a batch; print what it has found, and now and then the speed."""
        self._last[number] = progress
        for found in progress.findings:
            print_finding(console, found, self._titles, self._options)
        if time.monotonic() - self._shown > _SHOWN_S:
            self._shown = time.monotonic()
            programs = self.programs
            console.print(f"{programs} programs, {programs / self.seconds:.0f} a second")


# --- Printing ------------------------------------------------------------------------------------


def print_finding(
    console: Console, found: Finding, titles: Titles = TITLES, options: str = ""
) -> None:
    """The traces side by side, and the line that shows them again."""
    console.print(Text(f"\ndivergence at {found.kind}", "bold red"))
    if not found.steady:
        console.print("(the same program ran again without it)")
    print_lines(console, list(found.lines), titles)
    for told in found.because:
        console.print(Text(f"because of {told}", "bold"))
    console.print("see it again:")
    terminal.say(f"  userfault check --program '{found.program}'{options}\n")


def print_lines(
    console: Console, lines: list[tuple[str, str, str]], titles: Titles = TITLES
) -> None:
    """What was done, and what each of the two kernels said."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    for title in ("call", *titles):
        table.add_column(title, ratio=1, overflow="fold")
    for what, live, model in lines:
        style = "" if live == model else "bold red"
        table.add_row(Text(what), Text(live, style), Text(model, style))
    console.print(table)


def print_totals(console: Console, totals: Totals, *, complete: bool) -> None:
    programs, found, seconds = totals.programs, totals.coverage(), totals.seconds
    _print_coverage(console, found)
    never = found.never()
    if never:
        told = ", ".join(verb if memory == "-" else f"{verb} of {memory}" for verb, memory in never)
        console.print(Text(f"\nnever reached: {told}", "yellow"))
    else:
        console.print("\nevery kind of step was reached on every kind of memory")
    failed = sorted(
        {verb for verb, _ in coverage.cells(rwp=found.rwp)} - {verb for verb, _ in found.successes}
    )
    if failed:
        console.print(Text(f"never succeeded: {', '.join(failed)}", "yellow"))
    mean = totals.steps / programs if programs else 0.0
    console.print(
        f"\n{'' if complete else 'interrupted: '}{programs} programs of {mean:.1f} steps in the"
        f" mean, {totals.diverging} of them diverged, {totals.rescheduled} agreed under another"
        f" schedule than the first, {seconds:.1f} s, {programs / seconds:.0f} programs a second"
    )


def _print_coverage(console: Console, found: coverage.Coverage) -> None:
    """How often each step was made, and how many calls of it succeeded, by memory."""
    memories = (*areas.MEMORIES, coverage.NO_MEMORY)
    console.print("steps made")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for memory in memories:
        table.add_column("" if memory == coverage.NO_MEMORY else memory, justify="right")
    known = coverage.cells(rwp=found.rwp)
    for verb in dict.fromkeys(verb for verb, _ in known):
        row = []
        for memory in memories:
            cell = (verb, memory)
            row.append(str(found.steps[cell]) if cell in known else "")
        table.add_row(verb, *row)
    console.print(table)
