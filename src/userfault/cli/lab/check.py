"""`userfault lab run KERNEL... -- check`: the statements on other kernels.

One kernel is reported as `userfault check` does it; several are one table, with a column each.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from userfault.check.selection import Selection
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.cli.lab.crew import Crew, WorkerLost
from userfault.cli.lab.jobs import CaseDone, CaseJob, Setup
from userfault.cli.lab.table import KernelsTable
from userfault.cli.shared import interrupts
from userfault.cli.shared.checking.explain import Explanation
from userfault.cli.shared.checking.files import Header, JsonLines, JunitFile
from userfault.cli.shared.checking.reports import Report, Reports, exit_code
from userfault.cli.shared.checking.table import CheckTable

# Of a worker's silence: booting anew, a statement and its deadline, a question whether it lives.
_SILENCE_S = 300.0


class Wishes(msgspec.Struct, frozen=True):
    """What is asked of each kernel, and where the reports go."""

    chosen: Selection
    guests: int
    as_json: bool = False
    junit: Path | None = None
    explain: bool = False


def run_all(setups: list[Setup], wishes: Wishes) -> int:
    """Run the statements on each kernel; the exit code is that of all cases together."""
    seen: Counter[Verdict] = Counter()
    several = len(setups) > 1 and not wishes.as_json
    table = KernelsTable(wishes.chosen.statements) if several else None
    junit: JunitFile | None = None
    try:
        for setup in setups:
            with Crew(setup, wishes.guests) as crew:
                ready = crew.ready()
                header = Header(ready.kernel, len(wishes.chosen.statements), ready.unknown_features)
                junit = JunitFile(wishes.junit, header, junit) if wishes.junit else None
                reports = _reports(header, wishes, table, junit)
                seen += _run(crew, wishes.chosen, reports)
    finally:
        if table is not None:
            table.print(complete=sys.exc_info()[0] is None)
    return exit_code(seen)


def _reports(
    header: Header, wishes: Wishes, table: KernelsTable | None, junit: JunitFile | None
) -> list[Report]:
    """Those of one kernel."""
    reports: list[Report] = [junit] if junit else []
    if wishes.explain:
        reports.append(Explanation(wishes.chosen.statements[0], header.kernel))
    elif wishes.as_json:
        reports.append(JsonLines(header))
    elif table is None:
        reports.append(CheckTable(header))
    if table is not None:
        table.begin(header)
        reports.append(table)
    return reports


def _run(crew: Crew, chosen: Selection, wanted: list[Report]) -> Counter[Verdict]:
    """One kernel."""
    with Reports(chosen.statements, wanted) as reports:
        for result in in_order(crew, jobs(chosen)):
            with interrupts.deferred():
                reports.add(result)
    return reports.seen


def jobs(chosen: Selection) -> list[CaseJob]:
    """Every case, in the order in which it is reported."""
    return [
        CaseJob(found.number, memory)
        for found in chosen.statements
        for memory in found.memories or ("",)
        if chosen.memories is None or not memory or memory in chosen.memories
    ]


def in_order(crew: Crew, wanted: list[CaseJob]) -> Iterator[CaseResult]:
    """The results in the order of the jobs, whichever worker is faster."""
    early: dict[int, CaseResult] = {}
    position = 0
    for number, said in crew.run(wanted, _SILENCE_S):
        if isinstance(said, CaseDone):
            early[number] = said.result
        elif isinstance(said, WorkerLost):
            job = wanted[number]
            early[number] = CaseResult(job.number, job.memory, Verdict.LOST, str(said), 0.0)
        while position in early:
            yield early.pop(position)
            position += 1
