"""`userfault check --fuzz` and `--program`: the model against the running kernel."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from userfault.check.differential import areas, coverage, program
from userfault.check.differential.batch import Finding, Runner, seeds
from userfault.check.differential.found import kernels, profile_of
from userfault.check.live.kernel import LiveKernel
from userfault.cli.check import crew
from userfault.cli.check.batch import Progress
from userfault.cli.shared import errors, interrupts, terminal
from userfault.cli.shared.terminal import Screen
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux.hugepool import PoolShare, growing

_SHOWN_S = 5.0
# Huge pages of a job, in programs.  Free pages belong to whoever takes them: there are more than
# one program needs.
_PROGRAMS = 3


class Totals:
    """The sums of all batches: of each the last report counts."""

    def __init__(self) -> None:
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
            print_finding(console, found)
        if time.monotonic() - self._shown > _SHOWN_S:
            self._shown = time.monotonic()
            programs = self.programs
            console.print(f"{programs} programs, {programs / self.seconds:.0f} a second")


def fuzz(programs: int, seed: int | None, jobs: int) -> int:
    """Run random programs, `jobs` of them at once; the exit code."""
    seed = random.getrandbits(32) if seed is None else seed
    console = Screen()
    kernels()  # says why it cannot run here, before a process is started for it
    profile = profile_of(LiveKernel().release)
    totals = Totals()
    complete = False
    try:
        with _huge_pages(console, jobs) as huge:
            console.print(f"seed {seed}: {programs} programs on this kernel and on its model")
            console.print(_of_another_release())
            batches = seeds(seed, programs, huge=huge, rwp=profile.rwp)
            for number, progress in crew.run(batches, jobs):
                totals.report(console, number, progress)
        complete = True
    finally:
        print_totals(console, totals, complete=complete)
    return errors.FAILED if totals.diverging else 0


def _of_another_release() -> str:
    """What to know where the model has no profile of this very release."""
    release = LiveKernel().release
    profile = profile_of(release)
    if profile.release == release:
        return ""
    version = ".".join(map(str, release))
    return (
        f"(no profile of {version}: the model is that of {profile.name}, and what has changed"
        " since diverges)\n"
    )


@contextlib.contextmanager
def _huge_pages(console: Console, jobs: int = 1) -> Iterator[bool]:
    """Free huge pages for so many programs at a time; False where there are none."""
    share: PoolShare | None = None
    try:
        with interrupts.deferred():
            try:
                with growing(HUGE):
                    share = PoolShare(HUGE, _PROGRAMS * jobs * areas.HUGE_PAGES, grow=True)
            except MemoryUnavailable as error:
                console.print(f"without hugetlb: {error.what} ({error.cause})")
        yield share is not None
    finally:
        with interrupts.deferred():
            if share is not None:
                share.close()


def replay(text: str) -> int:
    """Run one program on both kernels and show every call; the exit code."""
    console = Screen()
    steps = program.from_text(text)
    with _huge_pages(console):
        runner = Runner(*kernels())
        with interrupts.deferred():
            found, lines = runner.trace(steps)
    print_lines(console, [(line.what, line.live, line.model) for line in lines])
    console.print("they differ" if found else "they agree")
    return errors.FAILED if found else 0


# --- Printing ------------------------------------------------------------------------------------


def print_finding(console: Console, found: Finding) -> None:
    """The traces side by side, and the line that shows them again."""
    console.print(Text(f"\ndivergence at {found.kind}", "bold red"))
    if not found.steady:
        console.print("(the same program ran again without it)")
    print_lines(console, list(found.lines))
    console.print("see it again:")
    terminal.say(f"  userfault check --program '{found.program}'\n")


def print_lines(console: Console, lines: list[tuple[str, str, str]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    for title in ("call", "this kernel", "model"):
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
