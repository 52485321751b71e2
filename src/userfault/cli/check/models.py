"""`userfault check --model V` with `--fuzz` or `--against`: the model alone, or two releases."""

from __future__ import annotations

import random

import msgspec
from rich.table import Table
from rich.text import Text

from userfault.check import kernels
from userfault.check.differential.batch import of_twins
from userfault.check.differential.twins import Twins
from userfault.check.run import run
from userfault.check.selection import Selection
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.cli.check import crew
from userfault.cli.shared import errors, json_output
from userfault.cli.shared.checking.table import verdict_text
from userfault.cli.shared.checking.totals import Totals, print_totals
from userfault.cli.shared.screen import Screen

SCHEMA = "userfault.check.against/1"


def fuzz(twins: Twins, programs: int, seed: int | None, jobs: int) -> int:
    """Run random programs on two models; the exit code."""
    seed = random.getrandbits(32) if seed is None else seed
    console = Screen()
    totals = Totals(twins.titles, twins.options)
    complete = False
    try:
        console.print(f"seed {seed}: {programs} programs on {' and on '.join(twins.titles)}")
        for number, progress in crew.run(of_twins(twins, seed, programs), jobs):
            totals.report(console, number, progress)
        complete = True
    finally:
        print_totals(console, totals, complete=complete)
    return errors.FAILED if totals.diverging else 0


# --- Statements ----------------------------------------------------------------------------------


class Difference(msgspec.Struct, frozen=True):
    """A statement that two releases do not answer in the same way.

    `calls`: the first call whose answers differ, as each of them traced it; empty where only the
    verdicts do.
    """

    number: int
    memory: str
    verdicts: tuple[Verdict, Verdict]
    calls: tuple[str, str] | tuple[()]


def statements(
    chosen: Selection, model: str, against: str, design: str | None, *, as_json: bool
) -> int:
    """Run statements on the models of two releases, and show where they differ; the exit code.

    1 if any fails or is lost on its own release: what two releases answer may well differ.
    """
    names = (model, against)
    promises = {found.number: found.promise for found in chosen.statements}
    runs = [
        run(chosen.statements, kernels.model(name, design).make, memories=chosen.memories)
        for name in names
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    for title in ("statement", *names):
        table.add_column(title, ratio=1, overflow="fold")
    if as_json:
        json_output.line({"schema": SCHEMA, "model": model, "against": against})
    cases = differ = 0
    bad = False
    for pair in zip(*runs, strict=True):
        cases += 1
        bad |= any(one.verdict in (Verdict.FAILED, Verdict.LOST) for one in pair)
        found = difference(*pair)
        if found is None:
            continue
        differ += 1
        if as_json:
            json_output.line(found)
        else:
            _add(table, promises[found.number], found)
    if as_json:
        json_output.line({"cases": cases, "differ": differ})
    else:
        console = Screen()
        console.print(table)
        console.print(f"\n{differ} of {cases} cases differ")
    return errors.FAILED if bad else 0


def difference(one: CaseResult, other: CaseResult) -> Difference | None:
    """How two runs of one case differ, if they do.

    What the handshake answers is passed over: it says which release it is.
    """
    verdicts = one.verdict, other.verdict
    if Verdict.CANNOT_RUN in verdicts:
        told: tuple[str, str] | tuple[()] = ()
    else:
        traces = [
            [line for line in each.trace if "UFFDIO_API" not in line] for each in (one, other)
        ]
        told = next(((a, b) for a, b in zip(*traces, strict=False) if a != b), ())
    if verdicts[0] is verdicts[1] and not told:
        return None
    return Difference(one.number, one.memory, verdicts, told)


def _add(table: Table, promise: str, found: Difference) -> None:
    what = f"{found.number}. {promise}" + (f" ({found.memory})" if found.memory else "")
    if found.verdicts[0] is found.verdicts[1]:
        table.add_row(Text(what), *map(Text, found.calls))
        return
    table.add_row(Text(what), *map(verdict_text, found.verdicts))
    if found.calls:
        table.add_row("", *map(Text, found.calls))
