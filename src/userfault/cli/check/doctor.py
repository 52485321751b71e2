"""`userfault doctor`: what this host lacks for each client, and the cure."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from userfault.cli.shared import errors, interrupts, json_output
from userfault.cli.shared.screen import Screen
from userfault.doctor.clients import CLIENTS, OURS, Health, examine
from userfault.doctor.finding import Finding, State

SCHEMA = "userfault.doctor/1"
_COLOURS = {State.OK: "green", State.DEGRADED: "yellow", State.MISSING: "bold red"}


@click.command(epilog="Example: userfault doctor --for firecracker")
@click.option("--for", "clients", metavar="CLIENT", type=click.Choice(list(CLIENTS)), multiple=True,
              help="Whom it is to work for (repeatable): " + ", ".join(CLIENTS) + ".")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(clients: tuple[str, ...], as_json: bool) -> int:
    """Tell what this host has, what it lacks for each kind of client, and the cure.

    Everything is tried, not guessed.  Exit code 0 if those asked for have what they need (default:
    this project itself, `native` and `serve`), 3 if not.
    """
    with interrupts.deferred():
        health = examine(clients or tuple(CLIENTS), everything=not clients)
    asked = clients or OURS
    code = 0 if not any(health.lacks[name] for name in asked) else errors.LACKING
    if as_json:
        json_output.show(SCHEMA, {"asked": asked, "well": code == 0, **_plain(health)})
        return code
    console = Screen()
    console.print(_findings(health.findings))
    console.print(_clients(health))
    return code


def _plain(health: Health) -> dict[str, object]:
    return {
        "findings": health.findings,
        "clients": {
            name: {"lacks": lacks, "less": health.likes[name]}
            for name, lacks in health.lacks.items()
        },
    }


def _findings(found: list[Finding]) -> Table:
    """What is not well has why it matters, and the cure, below it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("look", "state", "found"):
        table.add_column(name, no_wrap=name != "found", overflow="fold")
    for each in found:
        told = each.found
        if each.state is not State.OK:
            told += f"\nwhy:  {each.why}\ncure: {each.cure}"
        table.add_row(each.name, Text(each.state.value, _COLOURS[each.state]), told)
    return table


def _clients(health: Health) -> Table:
    table = Table(box=None, padding=(1, 2, 0, 0), header_style="bold")
    for name in ("client", "lacks", "does less without"):
        table.add_column(name, overflow="fold")
    for name, lacks in health.lacks.items():
        told = Text(", ".join(lacks), "bold red") if lacks else Text("nothing", "green")
        table.add_row(name, told, ", ".join(health.likes[name]))
    return table
