"""`userfault check`: what a kernel promises about userfaultfd, statement by statement."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from userfault.check import kernels
from userfault.check.run import run, unknown_features
from userfault.check.selection import Selection, select
from userfault.check.statements import load
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.cli.check import fuzz as fuzzing
from userfault.cli.check.explain import explain_result, explain_statement
from userfault.cli.check.files import Header, JsonLines, JunitFile
from userfault.cli.check.table import CheckTable, print_list
from userfault.cli.shared import errors, interrupts
from userfault.kernel.errors import UsageError

PROGRAMS = 2000


@click.command()
@click.option(
    "--only",
    metavar="WHAT",
    multiple=True,
    help="Numbers (5, 19-23), subjects (handshake) or memories (hugetlb), separated by commas.",
)
@click.option("--list", "as_list", is_flag=True, help="List the statements; run none.")
@click.option("--explain", metavar="N", type=int, help="Run statement N and show every call of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@click.option(
    "--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write a JUnit report too."
)
@click.option("--model", is_flag=True, help="Check the model kernel, not the running one.")
@click.option("--fuzz", is_flag=True, help="Run random programs on this kernel and on its model.")
@click.option("--programs", metavar="N", type=click.IntRange(1), help="How many (default: 2000).")
@click.option("--seed", metavar="S", type=int, help="Of --fuzz: the same seed, the same programs.")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="Of --fuzz: at once (CPUs).")
@click.option("--program", metavar="TEXT", help="Run one such program and show every call.")
@click.option("--profile", metavar="V", help="The model's version, as 6.18 (default: next).")
def check(
    only: tuple[str, ...],
    as_list: bool,
    explain: int | None,
    as_json: bool,
    junit: Path | None,
    model: bool,
    profile: str | None,
    fuzz: bool,
    programs: int | None,
    seed: int | None,
    jobs: int | None,
    program: str | None,
) -> int:
    """Check what a kernel does against what kernels promise.

    Each statement runs in processes of its own, with a deadline.  Exit code 0: none failed and
    none was lost; 3: none could run.
    """
    refuse_mixtures(click.get_current_context().params)
    if program is not None:
        return fuzzing.replay(program)
    if fuzz:
        return fuzzing.fuzz(programs or PROGRAMS, seed, jobs or os.cpu_count() or 1)
    if explain is not None:
        only = (*only, str(explain))
    chosen = select(load(), only)
    if as_list:
        print_list(chosen.statements, as_json=as_json)
        return 0
    factory = kernels.model(profile) if model else kernels.live()
    if explain is not None:
        return _explain(chosen, factory)
    header = Header(factory.name, len(chosen.statements), unknown_features(factory.make))
    outputs: list[CheckTable | JsonLines | JunitFile] = []
    outputs.append(JsonLines(header) if as_json else CheckTable(header))
    if junit is not None:
        outputs.append(JunitFile(junit, header))
    return _run(chosen, factory, outputs)


def refuse_mixtures(wanted: dict[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    of_fuzz = [name for name in ("programs", "seed", "jobs") if wanted.get(name) is not None]
    if of_fuzz and not wanted["fuzz"]:
        raise UsageError(f"--{of_fuzz[0]} without --fuzz", cure="add --fuzz")
    of_statements = ("only", "as_list", "explain", "as_json", "junit", "model", "profile")
    if (wanted["fuzz"] or wanted["program"] is not None) and any(map(wanted.get, of_statements)):
        raise UsageError(
            "--fuzz and --program run no statements",
            cure="leave out the options that choose or report them",
        )
    if wanted["profile"] and not wanted["model"]:
        raise UsageError("--profile without --model", cure="add --model")


def _run(
    chosen: Selection, factory: kernels.Factory, outputs: list[CheckTable | JsonLines | JunitFile]
) -> int:
    """Run and report; what was run is reported too when the run is interrupted."""
    by_number = {found.number: found for found in chosen.statements}
    seen: Counter[Verdict] = Counter()

    def report(result: CaseResult) -> None:
        seen[result.verdict] += 1
        for output in outputs:
            output.add(by_number[result.number], result)

    began = time.monotonic()
    try:
        _each(chosen, factory, report)
    finally:
        for output in outputs:
            output.end(seen, time.monotonic() - began, complete=sys.exc_info()[0] is None)
    return exit_code(seen)


def _each(
    chosen: Selection, factory: kernels.Factory, report: Callable[[CaseResult], None]
) -> None:
    """Run every case and report it; an interruption acts between two of them.

    (A case gives back what it added to a pool, and every report is to have the same cases.)
    """
    cases = run(chosen.statements, factory.make, memories=chosen.memories)
    result: CaseResult | None
    while True:
        with interrupts.deferred():
            result = next(cases, None)
            if result is None:
                return
            report(result)


def exit_code(seen: Counter[Verdict]) -> int:
    """1 if anything failed or was lost, 3 if nothing could run."""
    if seen[Verdict.FAILED] or seen[Verdict.LOST]:
        return errors.FAILED
    return 0 if seen[Verdict.PASSED] else errors.LACKING


def _explain(chosen: Selection, factory: kernels.Factory) -> int:
    seen: Counter[Verdict] = Counter()

    def report(result: CaseResult) -> None:
        seen[result.verdict] += 1
        explain_result(result, factory.name)

    explain_statement(chosen.statements[0])
    _each(chosen, factory, report)
    return exit_code(seen)
