"""A worker of the lab: one kernel in a machine of its own, and the jobs that come in.

Setup comes as the argument, jobs on standard input, answers go to standard output.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from userfault.check.differential.areas import HUGE_PAGES
from userfault.check.differential.batch import Finding, Runner, each
from userfault.check.differential.found import kernels, profile_of
from userfault.check.differential.program import from_text, to_text
from userfault.check.run import unknown_features
from userfault.check.statements import load
from userfault.check.words.outcome import Lost
from userfault.check.words.statement import REGISTRY
from userfault.cli.lab.jobs import (
    BatchJob,
    BatchPart,
    CaseDone,
    CaseJob,
    Job,
    Ready,
    ReplayDone,
    ReplayJob,
    Said,
    Setup,
)
from userfault.cli.shared import interrupts
from userfault.cli.shared.checking.tally import Progress, Tally
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import UserfaultError
from userfault.lab.outside.table import OUTSIDE
from userfault.lab.session import Session

_REPORT_EVERY = 50  # programs
# Some programs may still be ending: those that have just been told to.
_POOL = 4 * HUGE_PAGES


def main() -> None:
    """The worker's life; it ends when its input does."""
    interrupts.unwind_on_signals()
    setup = msgspec.json.decode(sys.argv[1], type=Setup)
    load()
    with Session(
        setup.kernel, memory_mib=setup.memory_mib, extra=setup.extra, outside=setup.module
    ) as session:
        _say(_ready(session, setup))
        for line in sys.stdin.buffer:
            job: Job = msgspec.json.decode(line, type=Job)
            if isinstance(job, CaseJob):
                _say(CaseDone(session.run_case(REGISTRY[job.number], job.memory)))
            elif isinstance(job, BatchJob):
                _batch(session, job)
            else:
                _say(_replay(session, job))


def _say(what: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def _ready(session: Session, setup: Setup) -> Ready:
    try:
        guest = session.guest()
        rwp = profile_of(session.live().release).rwp
        return Ready(f"Linux {guest.release}", unknown_features(session.live), rwp=rwp)
    except Lost as error:
        return Ready(f"Linux {setup.kernel.release}", failure=str(error))


def _runner(session: Session) -> Runner:
    session.guest().hugepages(HUGE, _POOL)
    return Runner(*kernels(session.live, OUTSIDE if session.outside else None))


def _batch(session: Session, job: BatchJob) -> None:
    tally: Tally | None = None

    def report(*findings: Finding, **more: Any) -> None:
        _say(BatchPart(tally.progress(findings) if tally else Progress(0, 0), **more))

    try:
        runner = _runner(session)
        tally = Tally(runner)
        for program in each(job.batch):
            found = runner.run(program)
            lost = session.loss(doubtful=found is not None and "hang" in found.lines[-1].live)
            findings = tally.count(program, None if lost else found)
            if lost is not None:
                report(lost=((to_text(program), str(lost)),))
                session.guest().hugepages(HUGE, _POOL)
            elif findings or tally.programs % _REPORT_EVERY == 0:
                report(*findings)
        report(done=True)
    except UserfaultError as error:
        report(failure=str(error), done=True)


def _replay(session: Session, job: ReplayJob) -> ReplayDone:
    try:
        found, lines = _runner(session).trace(from_text(job.program))
    except UserfaultError as error:
        return ReplayDone((), False, str(error))
    told = tuple((line.what, line.live, line.model) for line in lines)
    lost = session.loss(doubtful=found is not None)
    return ReplayDone(told, found is not None, str(lost) if lost else "")
