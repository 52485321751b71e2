"""`userfault info`: what a snapshot is."""

from __future__ import annotations

import time

import click
from rich.table import Table

from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.cli.store.places import Place, human, snapshot
from userfault.kernel.names import shown
from userfault.snapshot.inputs.protocol import REGISTERS, Region
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.upkeep.describe import Description, describe

SCHEMA = "userfault.info/1"


@click.command(epilog="Example: userfault info --regions /srv/memory/web")
@click.argument("place", metavar="STORE/NAME", callback=snapshot)
@click.option("--regions", is_flag=True, help="List the address ranges of a process image too.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def info(place: Place, regions: bool, as_json: bool) -> None:
    """Show what a snapshot is.

    Its layers, its pages by what they hold, its size in the store, what is known of its origin.
    """
    found = describe(open_image(place.open(), place.name))
    if as_json:
        json_output.show(SCHEMA, {"store": place.store, **_flat(found)})
        return
    console = Screen()
    console.print(_summary(found))
    if regions:
        console.print(_regions(found.regions))


def _flat(found: Description) -> dict[str, object]:
    summary = {name: getattr(found.summary, name) for name in ("name", "kind", "length", "digest")}
    summary["created"] = found.summary.created
    rest = {name: getattr(found, name) for name in found.__struct_fields__ if name != "summary"}
    return {**summary, **rest}


def _summary(found: Description) -> Table:
    summary = found.summary
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("name", summary.name)
    table.add_row("kind", shown(summary.kind))
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.created))
    table.add_row("created", created)
    table.add_row("length", f"{human(summary.length)} ({summary.length} bytes)")
    table.add_row("layers", " on ".join(found.layers))
    table.add_row("pages", ", ".join(f"{count} {kind}" for kind, count in found.pages.items()))
    table.add_row("distinct", f"{found.distinct} pages in chunks differ from each other")
    table.add_row("stored", f"{human(found.stored)} in {found.chunks} chunks")
    table.add_row("digest", summary.digest)
    told = {name: value for name, value in found.about.items() if not name.startswith(REGISTERS)}
    for name, value in told.items():
        table.add_row(
            shown(name), shown(value) if len(value) <= 200 else f"{len(value)} characters"
        )
    if threads := len(found.about) - len(told):
        table.add_row("threads", f"{threads}, with their registers")
    if found.regions:
        table.add_row("regions", f"{len(found.regions)} address ranges (--regions lists them)")
    return table


def _regions(regions: list[Region]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("address", "length", "may", "name"):
        table.add_column(name, no_wrap=name != "name", overflow="fold")
    for region in regions:
        may = "".join(
            letter if region.protection >> bit & 1 else "-" for bit, letter in enumerate("rwx")
        )
        table.add_row(
            f"{region.start:#x}",
            human(region.length),
            may + ("s" if region.shared else "p"),
            shown(region.name),
        )
    return table
