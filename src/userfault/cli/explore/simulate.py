"""`userfault simulate`: the pager on the model kernel, in long runs drawn from seeds."""

from __future__ import annotations

import itertools
import os

import click
import msgspec

from userfault.check.simulate import case
from userfault.check.simulate.batch import Batch, Progress, batches
from userfault.check.simulate.run import Result, run
from userfault.cli.explore import seeds as crew
from userfault.cli.shared import errors, json_output, progress
from userfault.cli.shared.screen import Screen
from userfault.kernel.errors import UsageError
from userfault.model.profiles import NEXT, profile_named

_SCHEMA = "userfault.simulate/1"
_SEEDS = 1000
_TOLD = 5  # violations that are told in full
_LINES = 20  # of what clients did, of each


@click.command()
@click.option(
    "--seeds", metavar="N", type=click.IntRange(1), help=f"How many runs (default: {_SEEDS})."
)
@click.option("--seed", metavar="S", type=click.IntRange(0), help="The first seed (default: 0).")
@click.option("--memory", type=click.Choice(case.MEMORY), help="Memory of this type only.")
@click.option("--kernel", metavar="V", default=NEXT.name, help="The model's version, as 6.18.")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="Processes (default: CPUs).")
@click.option("--trace", is_flag=True, help="One seed: tell what clients did, and every step.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def simulate(
    seeds: int | None,
    seed: int | None,
    memory: str | None,
    kernel: str,
    jobs: int | None,
    trace: bool,
    as_json: bool,
) -> int:
    """Run the pager on the model kernel, with faults injected and its workers killed.

    A seed draws memory, clients, what goes wrong and who runs when; the same seed is the same run.
    Exit code 0: nothing was violated; 1: something was.
    """
    console = Screen()
    name = profile_named(kernel).name
    if trace:
        return _trace(console, seeds, seed, memory or "", name, as_json=as_json)
    wanted = Batch(seed or 0, seeds or _SEEDS, memory or "", name)
    seen = Progress()
    report = _Report(console, wanted, as_json=as_json)
    try:
        with progress.bar("simulating") as show:
            for news in crew.run(batches(wanted), jobs or os.cpu_count() or 1):
                seen.add(news)
                report.add(news)
                show(seen.seeds, wanted.count)
    finally:
        report.end(seen)
    return errors.FAILED if seen.broken else 0


class _Report:
    """Tells violations as they come, and what was seen at the end."""

    def __init__(self, console: Screen, wanted: Batch, *, as_json: bool) -> None:
        self._console = console
        self._wanted = wanted
        self._as_json = as_json
        self._told = 0

    def add(self, news: Progress) -> None:
        """What broke, the first few times in full."""
        for result in news.broken:
            self._told += 1
            if self._as_json:
                json_output.line({"schema": _SCHEMA, **msgspec.to_builtins(result)})
            elif self._told <= _TOLD:
                self._tell(result)
            else:
                self._console.print(f"seed {result.seed}: broken, too")

    def _tell(self, result: Result) -> None:
        self._console.print(f"seed {result.seed}: {result.violation}", markup=False)
        for line in result.log[-_LINES:]:
            self._console.print(f"    {line}", markup=False)
        memory = f" --memory {self._wanted.memory}" if self._wanted.memory else ""
        kernel = f" --kernel {self._wanted.kernel}"
        self._console.print(
            f"again: userfault simulate --seed {result.seed}{memory}{kernel} --trace", markup=False
        )

    def end(self, seen: Progress) -> None:
        """The sums; also of a run that was interrupted."""
        complete = seen.seeds == self._wanted.count
        if self._as_json:
            sums = msgspec.to_builtins(seen) | {"broken": len(seen.broken), "complete": complete}
            json_output.line({"schema": _SCHEMA, "first": self._wanted.first, **sums})
            return
        told = ", ".join(f"{name} {count}" for name, count in sorted(seen.met.items()))
        verdict = f"{len(seen.broken)} broken" if seen.broken else "nothing violated"
        unseen = "" if complete else f" of {self._wanted.count}, interrupted"
        self._console.print(
            f"{seen.seeds} seeds{unseen}: {verdict}; {seen.steps} steps, {seen.deaths} workers"
            f" killed; {told or 'nothing went wrong around the pager'}",
            markup=False,
        )


def _trace(
    console: Screen, seeds: int | None, seed: int | None, memory: str, kernel: str, *, as_json: bool
) -> int:
    """One seed, told; the exit code."""
    if seed is None or (seeds or 1) > 1:
        raise UsageError("--trace tells one run", cure="name it: --seed S, without --seeds")
    result = run(seed, memory=memory, kernel=kernel, trace=True)
    if as_json:
        json_output.line({"schema": _SCHEMA, **msgspec.to_builtins(result)})
    else:
        for name, steps in itertools.groupby(result.points, key=lambda step: step[0]):
            console.print(f"{name}: {' '.join(point for _, point in steps)}", markup=False)
        console.print("\nwhat clients did:")
        for line in result.log:
            console.print(f"    {line}", markup=False)
        console.print(str(result.violation or "nothing violated"), markup=False)
    return errors.FAILED if result.violation is not None else 0
