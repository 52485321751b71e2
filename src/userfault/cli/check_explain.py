"""`userfault check --explain N`: one statement, where it comes from, and every call it made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from userfault.check.outcome import CaseResult
from userfault.check.statement import Statement
from userfault.cli.check_table import verdict_text


def explain(
    statement: Statement, results: Iterable[CaseResult], kernel: str
) -> Iterator[CaseResult]:
    """Print the statement, then each result as it comes; yields the results."""
    console = Console(highlight=False, markup=False)
    console.print(Text(f"{statement.number}. {statement.promise}", "bold"))
    console.print(f"subject   {statement.subject}: {statement.name}")
    console.print(f"since     Linux {'.'.join(map(str, statement.since))}")
    for when, what in statement.outcomes.items():
        console.print(f"          {when}: {what}")
    console.print(f"source    {statement.source}")
    console.print(f"memories  {' '.join(statement.memories) or 'it is about none'}")
    for result in results:
        head = Text(f"\n{kernel}{', ' if result.memory else ''}{result.memory}: ")
        console.print(head + verdict_text(result.verdict))
        if result.reason:
            console.print(f"  {result.reason}")
        for line in result.trace:
            console.print(f"  {line}", soft_wrap=True)
        yield result
