"""One batch of random programs, in a process of its own: what `userfault check --fuzz` starts.

The batch comes as the argument, in JSON; reports go to standard output, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import sys
import time

import msgspec

from userfault.check.differential.batch import Batch, Runner, each
from userfault.check.differential.found import kernels
from userfault.check.differential.pool import Pool
from userfault.check.differential.twins import Twins
from userfault.cli.shared import interrupts, json_output
from userfault.cli.shared.checking.tally import Tally
from userfault.kernel.errors import UserfaultError

_REPORT_S = 0.5


def _run(batch: Batch, runner: Runner) -> None:
    tally = Tally(runner)
    reported = time.monotonic()
    for program in each(batch):
        with interrupts.deferred():
            found = runner.run(program)
        findings = tally.count(program, found)
        if findings or time.monotonic() - reported > _REPORT_S:
            json_output.line(tally.progress(findings))
            reported = time.monotonic()
    json_output.line(tally.progress())


def _runner(batch: Batch, stack: contextlib.ExitStack) -> Runner:
    if batch.model:
        twins = Twins(batch.model, batch.against, batch.design)
        return Runner(*twins.factories(), twins=twins)
    pool = stack.enter_context(contextlib.closing(Pool()))
    return Runner(*kernels(), pool if batch.huge else None)


def main() -> None:
    """The batch is the argument."""
    interrupts.unwind_on_signals()
    batch = msgspec.json.decode(sys.argv[1], type=Batch)
    # Nobody reads on: whoever started us has ended.
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as stack:
        try:
            _run(batch, _runner(batch, stack))
        except UserfaultError as error:
            sys.exit(f"userfault: {error}")
