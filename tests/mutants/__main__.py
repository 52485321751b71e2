"""`make mutants`: every mutation, and which check notices it, as a table.  Some minutes.

Arguments are parts of names: then only those mutations.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mutants.hunt import Verdict, hunt
from mutants.mutations import MUTATIONS, Mutation

_PROGRAMS = 2000
_ROW = "{:72}{:20}{:>8}  {}"


def main(wanted: Sequence[str]) -> int:
    """0 if every mutation is caught, and the model without one is not."""
    began = time.monotonic()
    healthy = hunt(None, _PROGRAMS)
    if healthy.caught or healthy.divergence:
        print(f"the model as it is does not pass: {healthy}")
        return 1
    print(_ROW.format("mutation", "statement", "program", "diverges at"), flush=True)
    chosen = [m for m in MUTATIONS if not wanted or any(part in m.name for part in wanted)]
    missed = by_statement = by_program = 0
    for mutation, verdict in _hunted(chosen):
        missed += not verdict.caught
        by_statement += bool(verdict.statement)
        by_program += verdict.differs
        number = str(verdict.program) if verdict.program else "-"
        found = ("" if verdict.caught else "NOT CAUGHT ") + verdict.divergence
        row = _ROW.format(mutation.name, verdict.statement or "-", number, found)
        print(row, flush=True)
    seconds = time.monotonic() - began
    print(
        f"{len(chosen)} mutations, {missed} not caught; {by_statement} break a statement,"
        f" {by_program} diverge in a regression or within {_PROGRAMS} programs; {seconds:.0f} s"
    )
    return 1 if missed else 0


def _hunted(chosen: Sequence[Mutation]) -> Iterator[tuple[Mutation, Verdict]]:
    """Each with its verdict, in order; one on each CPU at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            verdicts = pool.map(lambda mutation: hunt(mutation, _PROGRAMS), chosen)
            yield from zip(chosen, verdicts, strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
