"""Mistakes planted in the memory that the stress test touches: each has to be found, where it is.

Each is the true fault beside one of the false alarms that judge.h tells apart: a stale word, zeros
where the source's bytes belong, the half of a write through the alias, a page that mremap lost, a
SIGBUS that no want of huge pages explains.  `python -m tests.stress --plants` tries all.
"""

from __future__ import annotations

from stress.board import PLANTS
from stress.run import Options, Result, pools, run

_FIND_S = 60.0

MISTAKES = PLANTS[1:]
NEEDS_ALIAS = ("half",)


def cases(memory: tuple[str, ...]) -> list[tuple[str, str]]:
    """Every mistake on every memory that can have it."""
    return [
        (mistake, name)
        for name in memory
        for mistake in MISTAKES
        if name != "anon" or mistake not in NEEDS_ALIAS
    ]


def hunt(mistake: str, memory: str) -> Result:
    """Run with `mistake` planted until something is wrong."""
    options = Options(kills=10**6, seconds=_FIND_S, memory=(memory,), plant=mistake)
    with pools(options):
        return run(options, lambda _: None)


def is_found(result: Result) -> bool:
    """Whether it was found, and nothing else was wrong."""
    return bool(result.wrong) and result.elsewhere + result.hung + result.failed == 0
