"""`userfault check`: what a kernel promises about userfaultfd, statement by statement."""

from __future__ import annotations

import os
from pathlib import Path

import click

from userfault.check import kernels
from userfault.check.differential.twins import Twins
from userfault.check.run import run, unknown_features
from userfault.check.selection import Selection, select
from userfault.check.statements import load
from userfault.cli.check import fuzz as fuzzing
from userfault.cli.check import models
from userfault.cli.shared import interrupts
from userfault.cli.shared.checking.explain import Explanation
from userfault.cli.shared.checking.files import Header, JsonLines, JunitFile
from userfault.cli.shared.checking.options import HELP, OPTIONS, PROGRAMS, refuse_mixtures
from userfault.cli.shared.checking.reports import Report, Reports, exit_code
from userfault.cli.shared.checking.table import CheckTable, print_list
from userfault.model.profiles import NEXT


@click.command(help=HELP, params=list(OPTIONS))
@click.pass_context
def check(
    ctx: click.Context,
    only: tuple[str, ...],
    as_list: bool,
    explain: int | None,
    as_json: bool,
    junit: Path | None,
    model: str | None,
    against: str | None,
    profile: str | None,
    design: str | None,
    fuzz: bool,
    programs: int | None,
    seed: int | None,
    jobs: int | None,
    program: str | None,
) -> int:
    """Run what is asked for; the exit code."""
    refuse_mixtures(ctx.params)
    name = model or profile or NEXT.name
    twins = Twins(name, against or "", design or "") if model is not None else None
    if program is not None:
        return fuzzing.replay(program, twins)
    if fuzz:
        return _fuzz(twins, programs or PROGRAMS, seed, jobs or os.cpu_count() or 1)
    if explain is not None:
        only = (*only, str(explain))
    chosen = select(load(), only)
    if as_list:
        print_list(chosen.statements, as_json=as_json)
        return 0
    if against is not None:
        return models.statements(chosen, name, against, design, as_json=as_json)
    factory = kernels.model(name, design) if model is not None else kernels.live()
    if explain is not None:
        return _run(chosen, factory, [Explanation(chosen.statements[0], factory.name)])
    header = Header(factory.name, len(chosen.statements), unknown_features(factory.make))
    reports: list[Report] = [JsonLines(header) if as_json else CheckTable(header)]
    if junit is not None:
        reports.append(JunitFile(junit, header))
    return _run(chosen, factory, reports)


def _fuzz(twins: Twins | None, programs: int, seed: int | None, jobs: int) -> int:
    if twins is not None:
        return models.fuzz(twins, programs, seed, jobs)
    return fuzzing.fuzz(programs, seed, jobs)


def _run(chosen: Selection, factory: kernels.Factory, wanted: list[Report]) -> int:
    """Run every case and report it; an interruption acts between two of them.

    (A case gives back what it added to a pool, and every report is to have the same cases.)
    """
    cases = run(chosen.statements, factory.make, memories=chosen.memories)
    with Reports(chosen.statements, wanted) as reports:
        while True:
            with interrupts.deferred():
                result = next(cases, None)
                if result is None:
                    break
                reports.add(result)
    return exit_code(reports.seen)
