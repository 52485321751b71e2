"""Run in a mutated copy of the package: the statements on its model, then random programs."""

from __future__ import annotations

import contextlib
import sys

import msgspec

from mutants.hunt import Verdict
from userfault.check.differential.areas import HUGE_PAGES
from userfault.check.differential.batch import Batch, Runner, each
from userfault.check.differential.found import configuration
from userfault.check.live import live_kernel
from userfault.check.outcome import Verdict as Outcome
from userfault.check.run import run
from userfault.check.statements import load
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux.hugepool import PoolShare
from userfault.model.profiles import LINUX_6_18, NEXT
from userfault.model.programs import ModelCalls

_SEED = 1


def _statement() -> str:
    """The first statement that the model breaks under a profile."""
    for profile in (LINUX_6_18, NEXT):
        for result in run(load(), lambda: ModelCalls(profile, checking=True)):  # noqa: B023
            if result.verdict in (Outcome.FAILED, Outcome.LOST):
                return f"{result.number} {result.memory}".strip()
    return ""


def _program(programs: int) -> tuple[int, str]:
    """The first program that differs from the running kernel, and where."""
    config = configuration()
    runner = Runner(
        live_kernel, lambda scheduler: ModelCalls(LINUX_6_18, config, scheduler=scheduler)
    )
    with contextlib.ExitStack() as stack:
        huge = True
        try:
            stack.callback(PoolShare(HUGE, HUGE_PAGES, grow=True).close)
        except MemoryUnavailable:
            huge = False
        for number, one in enumerate(each(Batch(programs, _SEED, huge)), 1):
            found = runner.run(one)
            if found is not None:
                return number, found.kind
    return 0, ""


def _main() -> None:
    verdict = Verdict(_statement(), *_program(int(sys.argv[1])))
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    _main()
