"""`userfault check --fuzz` and `--program`: the model against the running kernel."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from userfault.check.differential import areas, coverage, program
from userfault.check.differential.batch import Batch, Finding, Runner, seeds
from userfault.check.differential.found import kernels, profile_of
from userfault.check.live import LiveKernel
from userfault.cli import errors, interrupts
from userfault.cli.check_batch import Progress
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import MemoryUnavailable, UserfaultError
from userfault.linux.hugepool import PoolShare, growing

_SHOWN_S = 5.0
# Free pages belong to whoever takes them: enough for some runs at once.
_POOL = 4 * areas.HUGE_PAGES


class Totals:
    """The sums of all batches."""

    def __init__(self) -> None:
        self.programs = self.steps = self.diverging = self.rescheduled = 0
        self.coverage = coverage.Coverage()

    def add(self, last: Progress) -> None:
        """The last report of a batch."""
        self.programs += last.programs
        self.steps += last.steps
        self.diverging += last.diverging
        self.rescheduled += last.rescheduled
        for verb, memory, reached, succeeded in last.coverage:
            self.coverage.steps[verb, memory] += reached
            self.coverage.successes[verb, memory] += succeeded


def fuzz(programs: int, seed: int | None) -> int:
    """Run random programs; the exit code."""
    seed = random.getrandbits(32) if seed is None else seed
    console = Console(highlight=False, markup=False)
    kernels()  # says why it cannot run here, before a process is started for it
    profile = profile_of(LiveKernel().release)
    totals = Totals()
    began = time.monotonic()
    complete = False
    try:
        with _huge_pages(console) as huge:
            console.print(f"seed {seed}: {programs} programs on this kernel and on its model")
            console.print(_of_another_release())
            for batch in seeds(seed, programs, huge=huge, rwp=profile.rwp):
                _run(batch, totals, console, began)
        complete = True
    finally:
        print_totals(console, totals, time.monotonic() - began, complete=complete)
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
def _huge_pages(console: Console) -> Iterator[bool]:
    """Free huge pages for one program at a time; False where there are none."""
    share: PoolShare | None = None
    try:
        with interrupts.deferred():
            try:
                with growing(HUGE):
                    share = PoolShare(HUGE, _POOL, grow=True)
            except MemoryUnavailable as error:
                console.print(f"without hugetlb: {error.what} ({error.cause})")
        yield share is not None
    finally:
        with interrupts.deferred():
            if share is not None:
                share.close()


def _run(batch: Batch, totals: Totals, console: Console, began: float) -> None:
    """One batch, in a process of its own; what was found is printed at once."""
    command = [
        sys.executable,
        "-m",
        "userfault.cli.check_batch",
        msgspec.json.encode(batch).decode(),
    ]
    last = Progress(0, 0)
    shown = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            last = msgspec.json.decode(line, type=Progress)
            for found in last.findings:
                print_finding(console, found)
            if time.monotonic() - shown > _SHOWN_S:
                shown = time.monotonic()
                done = totals.programs + last.programs
                console.print(f"{done} programs, {done / (shown - began):.0f} a second")
        status = child.wait()
    finally:
        totals.add(last)
        child.terminate()
        child.wait()
        child.stdout.close()
    if status or last.programs < batch.programs:
        raise UserfaultError(
            f"a batch ended after {last.programs} of {batch.programs} programs",
            cause=f"its process ended with status {status}; its seed was {batch.seed}",
        )


def replay(text: str) -> int:
    """Run one program on both kernels and show every call; the exit code."""
    console = Console(highlight=False, markup=False)
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
    click.echo(f"  userfault check --program '{found.program}'\n")


def print_lines(console: Console, lines: list[tuple[str, str, str]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    for title in ("call", "this kernel", "model"):
        table.add_column(title, ratio=1, overflow="fold")
    for what, live, model in lines:
        style = "" if live == model else "bold red"
        table.add_row(Text(what), Text(live, style), Text(model, style))
    console.print(table)


def print_totals(console: Console, totals: Totals, seconds: float, *, complete: bool) -> None:
    programs, found = totals.programs, totals.coverage
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
