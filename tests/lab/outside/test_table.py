"""The memory type from outside, on the model: it keeps what shmem keeps."""

from __future__ import annotations

import pytest

from userfault.check.run import run
from userfault.check.selection import narrow, select
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.check.words.statement import SHMEM
from userfault.lab.outside.table import OUTSIDE
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import PROFILES


@pytest.mark.parametrize("profile", ["7.2", "7.3"])
def test_it_keeps_every_statement_about_shmem(profile: str) -> None:
    chosen = narrow(select(load(), ()), frozenset(SHMEM))

    results = list(
        run(
            chosen.statements,
            lambda: ModelCalls(
                PROFILES[profile], types=[OUTSIDE], memfd=OUTSIDE.name, checking=True
            ),
            memories=chosen.memories,
        )
    )

    kept = [found for found in results if found.verdict is Verdict.PASSED]
    broken = [found for found in results if found.verdict in (Verdict.FAILED, Verdict.LOST)]
    assert [(found.number, found.memory, found.reason) for found in broken] == []
    assert len(kept) > 200
