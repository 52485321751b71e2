"""`make mutants`: every mutation, and which check notices it, as a table.  Some minutes."""

from __future__ import annotations

import sys
import time

from mutants.hunt import hunt
from mutants.mutations import MUTATIONS

_PROGRAMS = 2000
_ROW = "{:54}{:18}{:>9}  {}"


def main() -> int:
    """0 if every mutation is caught, and the model without one is not."""
    began = time.monotonic()
    healthy = hunt(None, _PROGRAMS)
    if healthy.caught or healthy.divergence:
        print(f"the model as it is does not pass: {healthy}")
        return 1
    print(_ROW.format("mutation", "statement", "program", "diverges at"), flush=True)
    missed = 0
    for mutation in MUTATIONS:
        verdict = hunt(mutation, _PROGRAMS)
        missed += not verdict.caught
        number = str(verdict.program) if verdict.program else "-"
        found = (
            verdict.divergence if verdict.caught else f"NOT CAUGHT {verdict.divergence}".rstrip()
        )
        row = _ROW.format(mutation.name, verdict.statement or "-", number, found)
        print(row, flush=True)
    seconds = time.monotonic() - began
    print(f"{len(MUTATIONS)} mutations, {missed} not caught, {seconds:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
