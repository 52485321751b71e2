"""What the prompt shows: aligned tables with colours, or an object of JSON a line."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from userfault.check.prompt.session import Session, Told, Turn
from userfault.check.prompt.state import Row
from userfault.check.prompt.telling import answer_text, call_text, message_texts
from userfault.cli.model.conversation import Pairs
from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.kernel.calls import ReadFd

SCHEMA = "userfault.model/1"
# How a row is marked that the step has changed, also where there are no colours.
_MARKS = {"": (" ", ""), "new": ("+", "green"), "changed": ("*", "yellow"), "gone": ("-", "red")}


class Tables:
    """For people."""

    def __init__(self, session: Session) -> None:
        self._console = Screen()
        self._prompt = f"{session.kernel.machine.profile.name}> "

    def echo(self, number: int, line: str) -> None:
        """As it would have been typed."""
        del number
        self._console.print(Text(f"{self._prompt}{line}", "bold"))

    def turns(self, turns: list[Turn], tables: dict[str, list[Row]]) -> None:
        """The calls with their answers, then everything that there is."""
        table = _grid()
        for turn in turns:
            for told in turn.told:
                answer = Text(answer_text(told), _style(told))
                table.add_row(told.who, call_text(told.call), answer)
        self._console.print(table)
        for turn in turns:
            if turn.broken:
                self._console.print(Text(f"a rule is broken: {turn.broken}", "bold red"))
        self.state(tables)

    def state(self, tables: dict[str, list[Row]]) -> None:
        """A section for each table that is not empty."""
        table = _grid()
        for title, found in tables.items():
            if found:
                table.add_row("", Text(title, "bold"), "")
            for row in found:
                mark, style = _MARKS[row.change]
                table.add_row(
                    Text(mark, style), Text(f"  {row.thing}", style), Text(row.told, style)
                )
        self._console.print(table)

    def pairs(self, pairs: Pairs) -> None:
        """Two columns."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for one, other in pairs:
            table.add_row(Text(one, "bold"), other)
        self._console.print(table)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table


def _style(told: Told) -> str:
    if told.result is None:
        return "yellow"
    return "" if told.result.ok else "red"


class JsonLines:
    """For programs: a header, then an object for each line that did something."""

    def __init__(self, session: Session) -> None:
        json_output.line({"schema": SCHEMA, "kernel": session.kernel.name})
        self._line = 0

    def echo(self, number: int, line: str) -> None:
        """Its number goes into what follows."""
        del line
        self._line = number

    def turns(self, turns: list[Turn], tables: dict[str, list[Row]]) -> None:
        """The calls with their answers, then everything that there is."""
        self._write({"steps": [_step(turn) for turn in turns], **_state(tables)})

    def state(self, tables: dict[str, list[Row]]) -> None:
        """What there is."""
        self._write(_state(tables))

    def pairs(self, pairs: Pairs) -> None:
        """As they are."""
        self._write({"told": pairs})

    def _write(self, values: dict[str, Any]) -> None:
        json_output.line({"line": self._line, **values})


def _step(turn: Turn) -> dict[str, Any]:
    return {
        "step": turn.step,
        "calls": [_call(told) for told in turn.told],
        **({"broken": turn.broken} if turn.broken else {}),
    }


def _call(told: Told) -> dict[str, Any]:
    found: dict[str, Any] = {
        "task": told.who,
        "call": call_text(told.call),
        "answer": answer_text(told),
    }
    if told.result is None:
        found["waits_for"] = told.waits_for
    else:
        found |= {"value": told.result.value, "errno": told.result.errno}
        if told.result.signal is not None:
            found["signal"] = msgspec.to_builtins(told.result.signal)
        if isinstance(told.call, ReadFd) and told.result.ok:
            found["messages"] = message_texts(told.result.data)
    return found


def _state(tables: dict[str, list[Row]]) -> dict[str, Any]:
    return {"state": {name: msgspec.to_builtins(found) for name, found in tables.items()}}
