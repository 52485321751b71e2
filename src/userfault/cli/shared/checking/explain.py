"""`check --explain N`: one statement, where it comes from, and every call it made."""

from __future__ import annotations

from collections import Counter

from rich.text import Text

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.cli.shared.checking.table import verdict_text
from userfault.cli.shared.screen import Screen


class Explanation:
    """Printed as it goes: what the statement says first, then what was seen on each memory."""

    def __init__(self, statement: Statement, kernel: str) -> None:
        self._console = console = Screen()
        self._kernel = kernel
        console.print(Text(f"{statement.number}. {statement.promise}", "bold"))
        console.print(f"subject   {statement.subject}: {statement.name}")
        console.print(f"since     Linux {'.'.join(map(str, statement.since))}")
        for when, what in statement.outcomes.items():
            console.print(f"          {when}: {what}")
        console.print(f"source    {statement.source}")
        console.print(f"memories  {' '.join(statement.memories) or 'it is about none'}")

    def add(self, statement: Statement, result: CaseResult) -> None:
        """What was seen."""
        del statement
        head = Text(f"\n{self._kernel}{', ' if result.memory else ''}{result.memory}: ")
        self._console.print(head + verdict_text(result.verdict))
        if result.reason:
            self._console.print(f"  {result.reason}")
        for line in result.trace:
            self._console.print(f"  {line}", soft_wrap=True)

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """There is nothing to sum up."""
