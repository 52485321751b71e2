"""The table of several kernels: a row for each statement, a column for each kernel."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

from rich.table import Table
from rich.text import Text

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.cli.shared.checking.files import Header
from userfault.cli.shared.screen import Screen

_WORST = (Verdict.LOST, Verdict.FAILED, Verdict.PASSED, Verdict.CANNOT_RUN)
_SHOWN = {
    Verdict.PASSED: Text("passed", "green"),
    Verdict.FAILED: Text("FAILED", "bold red"),
    Verdict.CANNOT_RUN: Text("-", "dim"),
    Verdict.LOST: Text("LOST", "bold magenta"),
}


class KernelsTable:
    """Printed at the end; before that a line for each kernel that is done."""

    def __init__(self, statements: list[Statement]) -> None:
        self._statements = statements
        self._console = Screen()
        self._kernels: list[str] = []
        self._verdicts: dict[tuple[str, int], set[Verdict]] = defaultdict(set)
        self._bad: list[tuple[str, CaseResult]] = []
        self._began = time.monotonic()

    def begin(self, header: Header) -> None:
        """What comes from now on is of this kernel."""
        self._kernels.append(header.kernel)

    def add(self, statement: Statement, result: CaseResult) -> None:
        """One case of the kernel."""
        self._verdicts[self._kernels[-1], statement.number].add(result.verdict)
        if result.verdict in (Verdict.FAILED, Verdict.LOST):
            self._bad.append((self._kernels[-1], result))

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """The sums of the kernel."""
        told = ", ".join(f"{seen[verdict]} {verdict.value}" for verdict in Verdict)
        stopped = "" if complete else "interrupted: "
        self._console.print(f"{self._kernels[-1]}: {stopped}{told} ({seconds:.1f} s)")

    def print(self, *, complete: bool) -> None:
        """All of it."""
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("", ratio=1, overflow="fold")
        for kernel in self._kernels:
            table.add_column(kernel.removeprefix("Linux ").partition("-")[0], no_wrap=True)
        for found in self._statements:
            cells = [self._cell(kernel, found.number) for kernel in self._kernels]
            if any(cells):
                table.add_row(str(found.number), Text(found.name), *cells)
        self._console.print(table)
        for kernel, result in self._bad:
            memory = f" [{result.memory}]" if result.memory else ""
            self._console.print(
                f"\n{kernel}: {result.number}{memory}: {result.verdict.value}: {result.reason}"
            )
        if not complete:
            self._console.print("\ninterrupted")
        self._console.print(f"\n{time.monotonic() - self._began:.1f} s")

    def _cell(self, kernel: str, number: int) -> Text:
        """The worst of its memories; what could not run at all is `-`."""
        seen = self._verdicts.get((kernel, number), set())
        return next((_SHOWN[verdict] for verdict in _WORST if verdict in seen), Text(""))
