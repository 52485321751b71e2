"""The reports of a run of statements: kept going while it runs, ended when it ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.cli.shared import errors


class Report(Protocol):
    """One of them."""

    def add(self, statement: Statement, result: CaseResult) -> None:
        """One case."""

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """The sums; `complete` is false if the run was interrupted."""


class Reports:
    """All of them.  What was run is reported too when the block is left by an error."""

    def __init__(self, statements: Iterable[Statement], reports: Sequence[Report]) -> None:
        self._statements = {found.number: found for found in statements}
        self._reports = reports
        self.seen: Counter[Verdict] = Counter()
        self._began = time.monotonic()

    def __enter__(self) -> Reports:
        return self

    def add(self, result: CaseResult) -> None:
        """One case, to each."""
        self.seen[result.verdict] += 1
        for report in self._reports:
            report.add(self._statements[result.number], result)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for report in self._reports:
            report.end(self.seen, time.monotonic() - self._began, complete=kind is None)


def exit_code(seen: Counter[Verdict]) -> int:
    """1 if anything failed or was lost, 3 if nothing could run."""
    if seen[Verdict.FAILED] or seen[Verdict.LOST]:
        return errors.FAILED
    return 0 if seen[Verdict.PASSED] else errors.LACKING
