"""Run in a mutated copy of the package: the statements on its model, then programs.

The programs are those that found a divergence before, and random ones.
"""

from __future__ import annotations

import contextlib
import sys

import msgspec

from check.differential.test_regressions import FIXED
from mutants.hunt import Verdict
from userfault.check.differential.batch import Batch, Runner, each
from userfault.check.differential.found import kernels
from userfault.check.differential.pool import Pool
from userfault.check.differential.program import from_text
from userfault.check.run import run
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict as Outcome
from userfault.kernel.errors import MemoryUnavailable
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import LINUX_6_18, NEXT

_SEED = 1


def _statement() -> str:
    """The first statement that the model breaks under a profile."""
    for profile in (LINUX_6_18, NEXT):
        for result in run(load(), lambda: ModelCalls(profile, checking=True)):  # noqa: B023
            if result.verdict in (Outcome.FAILED, Outcome.LOST):
                return f"{result.number} {result.memory}".strip()
    return ""


def _program(programs: int) -> tuple[int, str]:
    """The first program that differs from the running kernel, and where (0: a regression)."""
    live, model = kernels()
    with contextlib.closing(Pool()) as pool:
        huge = True
        try:
            pool.fill_up()
        except MemoryUnavailable:
            huge = False
        runner = Runner(live, model, pool if huge else None)
        # Programs that were found before come first: some facts are rare in random ones.
        for name, text in FIXED.items():
            if (huge or "huge" not in text) and runner.run(from_text(text)) is not None:
                return 0, f"regression: {name}"
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
