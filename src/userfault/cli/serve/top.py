"""`userfault top`: the pagers that run here, live."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import click
from rich.live import Live
from rich.table import Table

from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.cli.shared.sizes import size
from userfault.kernel.memtypes import MIB
from userfault.kernel.names import shown
from userfault.pager.drivers.record.viewing import Family, Mapping, Served, families

SCHEMA = "userfault.top/1"


@click.command(epilog="Example: userfault top --once")
@click.option("--interval", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=1.0,
              help="Look so often (default: 1).")  # fmt: skip
@click.option("--once", is_flag=True, help="Look once, print, and end.")
@click.option("--json", "as_json", is_flag=True,
              help="Print JSON; with --interval an object a line, until Ctrl-C.")  # fmt: skip
@click.pass_context
def top(context: click.Context, interval: float, once: bool, as_json: bool) -> None:
    """Show the pagers that run here: whom they serve, what is in, who waits.

    Pagers are not asked and not slowed down: what is shown lies in memory that they share with
    their clients. Pagers of other users are shown to root only. Ctrl-C ends it.
    """
    given = context.get_parameter_source("interval")
    if once or (as_json and given is not click.core.ParameterSource.COMMANDLINE):
        _once(families(), as_json=as_json)
        return
    if as_json:
        while True:
            json_output.line({"schema": SCHEMA, "pagers": families()})
            time.sleep(interval)
    _watch(interval)


def _once(found: Sequence[Family], *, as_json: bool) -> None:
    if as_json:
        json_output.show(SCHEMA, {"pagers": list(found)})
    else:
        Screen().print(_picture(found, None, 0.0))


def _watch(interval: float) -> None:
    """Until Ctrl-C, which is how it is meant to end."""
    console = Screen()
    before: Sequence[Family] | None = None
    began = time.monotonic()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            found, now = families(), time.monotonic()
            live.update(_picture(found, before, now - began), refresh=True)
            before, began = found, now
            time.sleep(interval)


def _picture(found: Sequence[Family], before: Sequence[Family] | None, elapsed: float) -> Table:
    """A row a client.  Rates are known from the second look on."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, left in _COLUMNS:
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    old = {_key(each): each for each in before or ()}
    for family in found:
        was = old.get(_key(family))
        for client in family.clients:
            table.add_row(*_row(family, client, was, elapsed))
    if not any(family.clients for family in found):
        table.add_row("-", "nobody is served" if found else "no pager runs", *[""] * 8)
    root = "" if os.geteuid() == 0 else "; those of other users are shown to root"
    table.caption = f"{len(found)} pagers{root}"
    table.caption_justify = "left"
    return table


_COLUMNS = (
    ("pager", False),
    ("client", True),
    ("source", True),
    ("memory", False),
    ("in", False),
    ("MiB/s", False),
    ("waiting", False),
    ("failed", False),
    ("takeovers", False),
    ("CPU", False),
)


def _key(family: Family) -> int:
    return family.processes["supervisor"] or family.processes["worker"]


def _row(family: Family, client: Served, was: Family | None, elapsed: float) -> list[str]:
    whole = sum(each.pages * each.page_size for each in client.mappings)
    filled = _filled(client.mappings)
    rate = cpu = "-"
    if was is not None and elapsed > 0:
        earlier = next((each for each in was.clients if each.process == client.process), None)
        if earlier is not None:
            rate = f"{max(filled - _filled(earlier.mappings), 0) / MIB / elapsed:.1f}"
        cpu = f"{max(family.cpu_s - was.cpu_s, 0) / elapsed:.0%}"
    who = (
        f"{client.process or 'ended'} {shown(client.name)}" if client.name else str(client.process)
    )
    kinds = ", ".join(sorted({each.source for each in client.mappings})) or "-"
    return [
        str(family.processes["worker"]),
        f"{who} ({client.protocol})" if client.protocol else who,
        kinds,
        size(whole) if whole else "0",
        f"{filled / whole:.0%}" if whole else "-",
        rate,
        str(sum(each.waiting for each in client.mappings)),
        str(sum(each.failed for each in client.mappings)),
        str(family.takeovers),
        cpu,
    ]


def _filled(mappings: Sequence[Mapping]) -> int:
    return sum(each.filled * each.page_size for each in mappings)
