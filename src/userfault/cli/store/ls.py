"""`userfault ls`: the snapshots of a store."""

from __future__ import annotations

import time

import click
from rich.table import Table

from userfault.cli.shared import errors, json_output
from userfault.cli.shared.screen import Screen
from userfault.cli.store.places import human, store
from userfault.kernel.errors import UserfaultError
from userfault.kernel.names import shown
from userfault.snapshot.stores.opening import open_existing
from userfault.snapshot.upkeep import describe
from userfault.snapshot.upkeep.describe import Summary, Unreadable

SCHEMA = "userfault.ls/1"


@click.command(epilog="Example: userfault ls s3://bucket/snapshots")
@click.argument("where", metavar="STORE", callback=store)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def ls(where: str, as_json: bool) -> int:
    """List the snapshots of a store.

    STORE is a folder or a URL.  `stored` is what the chunks take that a snapshot names itself; what
    it shares with others is counted in each of them.  A snapshot that is damaged is told beside the
    list of the others, and the exit code is 1.
    """
    objects = open_existing(where)
    listed = list(describe.summaries(objects))
    found = [each for each in listed if isinstance(each, Summary)]
    damaged = [each for each in listed if isinstance(each, Unreadable)]
    if as_json:
        values = {"store": objects.url, "snapshots": found, "damaged": damaged}
        json_output.show(SCHEMA, values)
    elif found or not damaged:
        Screen().print(_table(found) if found else f"no snapshots in {where}")
    for each in damaged:
        errors.show(UserfaultError(f"{each.name} is left out", cause=each.problem, cure=each.cure))
    return errors.FAILED if damaged else 0


def _table(found: list[Summary]) -> Table:
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
    return table
