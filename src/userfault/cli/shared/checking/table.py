"""The reports of `userfault check` for people: the table, and the list of statements."""

from __future__ import annotations

import itertools
from collections import Counter

from rich.table import Table
from rich.text import Text

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement, to_json
from userfault.cli.shared import json_output
from userfault.cli.shared.checking.files import Header
from userfault.cli.shared.screen import Screen

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.CANNOT_RUN: "yellow",
    Verdict.LOST: "bold magenta",
}


def verdict_text(verdict: Verdict) -> Text:
    """The verdict in its colour."""
    return Text(verdict.value, _STYLES[verdict])


class CheckTable:
    """A row for each statement, printed as soon as it has run on its last memory."""

    def __init__(self, header: Header) -> None:
        self._console = Screen()
        self._console.print(f"{header.kernel}: {header.statements} statements\n")
        if header.unknown_features:
            self._console.print(
                f"This kernel offers features that we do not know: {header.unknown_features:#x}."
                " Nothing is said about them.\n",
                style="yellow",
            )
        self._statement: Statement | None = None
        self._results: list[CaseResult] = []

    def add(self, statement: Statement, result: CaseResult) -> None:
        """One case."""
        if self._statement is not None and statement.number != self._statement.number:
            self._flush()
        self._statement = statement
        self._results.append(result)

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """The last row, and the sums."""
        self._flush()
        told = ", ".join(f"{seen[verdict]} {verdict.value}" for verdict in Verdict)
        stopped = "" if complete else "interrupted: "
        self._console.print(f"\n{stopped}{told} ({seen.total()} cases, {seconds:.1f} s)")

    def _flush(self) -> None:
        if self._statement is None:
            return
        table = _rows()
        groups = itertools.groupby(
            sorted(self._results, key=_group), key=lambda result: (result.verdict, result.reason)
        )
        for place, ((verdict, reason), cases) in enumerate(groups):
            memories = " ".join(case.memory for case in cases if case.memory)
            what = self._statement.promise if place == 0 else ""
            number = str(self._statement.number) if place == 0 else ""
            table.add_row(number, verdict_text(verdict), Text(what))
            if memories:
                table.add_row("", "", Text(memories, "dim"))
            if reason:
                table.add_row("", "", Text(reason, _STYLES[verdict]))
        self._console.print(table)
        self._statement, self._results = None, []


def _group(result: CaseResult) -> tuple[int, str]:
    return list(Verdict).index(result.verdict), result.reason


def _rows() -> Table:
    """Rows under one another although each is a table of its own: the widths are fixed."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=4, justify="right", no_wrap=True)
    table.add_column(width=15, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    return table


def print_list(statements: list[Statement], *, as_json: bool) -> None:
    """Every statement by subject; as JSON one object a line."""
    if as_json:
        for found in statements:
            json_output.line(to_json(found))
        return
    console = Screen()
    for subject, group in itertools.groupby(statements, key=lambda found: found.subject):
        console.print(Text(f"{subject.replace('_', ' ')}", "bold"))
        table = _rows()
        for found in group:
            since = f"since {found.first_release}"
            table.add_row(str(found.number), since, Text(found.promise))
            if found.memories:
                table.add_row("", "", Text(" ".join(found.memories), "dim"))
        console.print(table)
        console.print()
