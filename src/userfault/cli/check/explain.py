"""`userfault check --explain N`: one statement, where it comes from, and every call it made."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from userfault.check.words.outcome import CaseResult
from userfault.check.words.statement import Statement
from userfault.cli.check.table import verdict_text
from userfault.cli.shared.terminal import Screen


def explain_statement(statement: Statement) -> None:
    """What it says, since when, and where that comes from."""
    console = _console()
    console.print(Text(f"{statement.number}. {statement.promise}", "bold"))
    console.print(f"subject   {statement.subject}: {statement.name}")
    console.print(f"since     Linux {'.'.join(map(str, statement.since))}")
    for when, what in statement.outcomes.items():
        console.print(f"          {when}: {what}")
    console.print(f"source    {statement.source}")
    console.print(f"memories  {' '.join(statement.memories) or 'it is about none'}")


def explain_result(result: CaseResult, kernel: str) -> None:
    """What was seen."""
    console = _console()
    head = Text(f"\n{kernel}{', ' if result.memory else ''}{result.memory}: ")
    console.print(head + verdict_text(result.verdict))
    if result.reason:
        console.print(f"  {result.reason}")
    for line in result.trace:
        console.print(f"  {line}", soft_wrap=True)


def _console() -> Console:
    return Screen()
