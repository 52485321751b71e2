"""`userfault lab run KERNEL... -- check`: the statements on other kernels.

One kernel is reported as `userfault check` does it; several are one table, with a column each.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from userfault.check.selection import Selection
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.cli.check.check import exit_code
from userfault.cli.check.explain import explain_result, explain_statement
from userfault.cli.check.files import Header, JsonLines, JunitFile
from userfault.cli.check.table import CheckTable
from userfault.cli.lab.crew import Crew, WorkerLost
from userfault.cli.lab.jobs import CaseDone, CaseJob, Setup
from userfault.cli.lab.table import KernelsTable
from userfault.cli.shared import interrupts

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
                junit = _run(crew, wishes, seen, table, junit)
    finally:
        if table is not None:
            table.print(complete=sys.exc_info()[0] is None)
    return exit_code(seen)


def _run(
    crew: Crew,
    wishes: Wishes,
    total: Counter[Verdict],
    table: KernelsTable | None,
    before: JunitFile | None,
) -> JunitFile | None:
    """One kernel."""
    chosen = wishes.chosen
    ready = crew.ready()
    header = Header(ready.kernel, len(chosen.statements), ready.unknown_features)
    junit = JunitFile(wishes.junit, header, before) if wishes.junit else None
    outputs: list[CheckTable | JsonLines | JunitFile | KernelsTable] = [junit] if junit else []
    if wishes.explain:
        explain_statement(chosen.statements[0])
    elif wishes.as_json:
        outputs.append(JsonLines(header))
    elif table is None:
        outputs.append(CheckTable(header))
    if table is not None:
        table.begin(header)
        outputs.append(table)
    by_number = {found.number: found for found in chosen.statements}
    seen: Counter[Verdict] = Counter()
    began = time.monotonic()
    try:
        for result in in_order(crew, jobs(chosen)):
            with interrupts.deferred():
                seen[result.verdict] += 1
                total[result.verdict] += 1
                for output in outputs:
                    output.add(by_number[result.number], result)
                if wishes.explain:
                    explain_result(result, header.kernel)
    finally:
        for output in outputs:
            output.end(seen, time.monotonic() - began, complete=sys.exc_info()[0] is None)
    return junit


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
