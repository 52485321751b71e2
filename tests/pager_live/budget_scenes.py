"""What needs a process of its own: a memory cgroup, a disk that is full."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from helpers.pages import PAGE
from userfault import Policy, lazy

_STEP = 64 * PAGE


def all_of_it(path: str, procs: str) -> dict[str, Any]:
    """Join the cgroup, open a file that is more than it allows, and read one byte of each page."""
    Path(procs).write_text(str(os.getpid()))
    warnings.simplefilter("error")
    with lazy(path) as memory:
        total = sum(sum(memory[at : at + _STEP : PAGE]) for at in range(0, len(memory), _STEP))
        found = memory.statistics()
    assert found.residency is not None
    return {
        "total": total,
        "memory": found.memory,
        "evicted": found.counters.evicted,
        "within": found.residency.resident <= found.residency.budget + (64 << 20),
    }


def read_after_the_source_has_gone(path: str, budget: int) -> int:
    """Read all of it, so that most is taken out again, and once more: ends by SIGBUS."""
    with lazy(path, policy=Policy(resident_bytes=budget, background=False)) as memory:
        sum(memory[at] for at in range(0, len(memory), PAGE))
        os.truncate(path, 0)
        return sum(memory[at] for at in range(0, len(memory), PAGE))


def write_all(path: str, folder: str, budget: int) -> dict[str, Any]:
    """Write every page, with a spill file in a folder that takes little; read all of it back."""
    policy = Policy(resident_bytes=budget, spill=folder, background=False)
    with lazy(path, writable=True, policy=policy) as memory:
        pages = len(memory) // PAGE
        for page in range(pages):
            memory[page * PAGE + 8 : page * PAGE + 16] = page.to_bytes(8, "little")
        wrong = [
            page
            for page in range(pages)
            if memory[page * PAGE + 8 : page * PAGE + 16] != page.to_bytes(8, "little")
        ]
        found = memory.statistics()
    assert found.residency is not None
    return {"wrong": wrong, "spilled": found.counters.spilled, "note": found.residency.note}
