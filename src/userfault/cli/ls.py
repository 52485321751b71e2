"""`userfault ls`: the snapshots of a store."""

from __future__ import annotations

import time

import click
from rich.table import Table

from userfault.cli import json_output
from userfault.cli.store_places import human, store
from userfault.cli.terminal import Screen
from userfault.kernel.names import shown
from userfault.snapshot import describe
from userfault.snapshot.existing import open_existing

SCHEMA = "userfault.ls/1"


@click.command(epilog="Example: userfault ls s3://bucket/snapshots")
@click.argument("where", metavar="STORE", callback=store)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def ls(where: str, as_json: bool) -> None:
    """List the snapshots of a store.

    STORE is a folder or a URL.  `stored` is what the chunks take that a snapshot names itself; what
    it shares with others is counted in each of them.
    """
    objects = open_existing(where)
    found = list(describe.summaries(objects))
    if as_json:
        json_output.show(SCHEMA, {"store": objects.url, "snapshots": found})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in (
        ("name", "left"),
        ("length", "right"),
        ("stored", "right"),
        ("kind", "left"),
        ("created", "left"),
        ("base", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for each in found:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created))
        table.add_row(
            each.name,
            human(each.length),
            human(each.stored),
            shown(each.kind),
            created,
            each.base,
        )
    Screen().print(table if found else f"no snapshots in {where}")
