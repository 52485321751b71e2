"""A memory type from outside keeps the statements that shared shmem keeps.

The files of memfd_create(2) are of the example's type here, so each statement runs as it is
written.  Where the example means to differ, the statement is named below with the reason, and
it must hold again on the same table without that difference alone.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from model.memtypes.fifth import EXAMPLE, driver
from userfault.check.run import run_case
from userfault.check.statements import load
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.model.faces.calls import ModelCalls
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.anon import ANONYMOUS
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.shmem import SHMEM

LABELS = "a page that nobody has filled says its number; the statement reads zeroes there"
NO_FALLOCATE = "the driver has no fallocate(2), with which the statement begins"
NO_PRIVATE = "the driver cannot be mapped private, which the statement does too"

DIFFERENCES: dict[int, str] = {
    25: NO_PRIVATE,
    45: LABELS,
    48: LABELS,
    87: NO_FALLOCATE,
    94: LABELS,
    108: LABELS,
    128: LABELS,
    132: LABELS,
    138: LABELS,
    152: LABELS,
    168: LABELS,
    195: LABELS,
}
WITHOUT: dict[str, dict[str, Any]] = {
    LABELS: {"fault_folio": pagecache.fault},
    NO_FALLOCATE: {"preallocate": pagecache.preallocate},
    NO_PRIVATE: {"can_private": True, "private": ANONYMOUS, "uffd": SHMEM.uffd},
}
PROMISED = {found.number: found for found in load() if "shmem" in found.memories}
KEPT = [found for number, found in PROMISED.items() if number not in DIFFERENCES]


def judged(found: Statement, table: MemoryOps) -> CaseResult:
    """The statement on a kernel whose memfds are of this type."""
    return run_case(
        found, "shmem", lambda: ModelCalls(types=[table], memfd=table.name, checking=True)
    )


@pytest.mark.parametrize("found", KEPT, ids=lambda found: str(found.number))
def test_the_fifth_type_keeps_it(found: Statement) -> None:
    result = judged(found, driver())

    assert result.verdict is Verdict.PASSED, "\n".join((result.reason, *result.trace))


@pytest.mark.parametrize("number", DIFFERENCES)
def test_what_it_does_not_keep_is_for_the_reason_given(number: int) -> None:
    assert judged(PROMISED[number], driver()).verdict is Verdict.FAILED
    alike = replace(driver(), **WITHOUT[DIFFERENCES[number]])

    result = judged(PROMISED[number], alike)

    assert result.verdict is Verdict.PASSED, "\n".join((result.reason, *result.trace))


def test_most_statements_are_kept() -> None:
    assert len(KEPT) > 100


def test_the_type_is_less_than_sixty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
