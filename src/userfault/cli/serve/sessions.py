"""`userfault sessions`: whom a daemon serves."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from userfault.cli.serve.options import control
from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.serve.talking import Line

SCHEMA = "userfault.sessions/1"


@click.command(epilog="Example: userfault sessions --control /run/userfault/control")
@control
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def sessions(control: str, as_json: bool) -> None:
    """Whom a daemon serves, and how it stands with each."""
    line = Line.to(control)
    answer = line.ask("sessions")
    line.close()
    if as_json:
        values = {name: answer[name] for name in ("sessions", "waiting", "draining")}
        json_output.show(SCHEMA, values)
        return
    found = answer["sessions"]
    Screen().print(_table(found) if found else "nobody is served")


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("process", "protocol", "pages", "filled", "faults", "failed", "waiting"):
        table.add_column(name, justify="left" if name == "protocol" else "right")
    for each in found:
        mappings = each["mappings"]
        pages = sum(mapping["pages"] for mapping in mappings)
        table.add_row(
            str(each["pid"]),
            each["protocol"],
            str(pages),
            str(pages - sum(mapping["unsettled"] for mapping in mappings)),
            str(sum(mapping["counters"]["faults"] for mapping in mappings)),
            str(sum(mapping["failed"] for mapping in mappings)),
            str(sum(mapping["waiting"] for mapping in mappings)),
        )
    return table
