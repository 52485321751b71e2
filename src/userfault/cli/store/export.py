"""`userfault export`: a snapshot as a file again."""

from __future__ import annotations

from typing import Any

import click

from userfault.cli.shared import json_output, progress, terminal
from userfault.cli.store import reading
from userfault.cli.store.places import Place, human, snapshot
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.upkeep.elf import export_elf
from userfault.snapshot.upkeep.export import export_raw

SCHEMA = "userfault.export/1"

_EPILOG = """\b
Examples:
  userfault export /srv/memory/web guest.mem
  userfault export --elf ./store/redis redis.core && gdb redis-server redis.core
"""


@click.command(epilog=_EPILOG)
@click.argument("place", metavar="STORE/NAME", callback=snapshot)
@click.argument("output", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--elf", is_flag=True, help="Write an ELF core: of a process image alone.")
@reading.options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(place: Place, output: str, elf: bool, as_json: bool, **source: Any) -> None:
    """Write a snapshot to a file.

    Raw, every page is at its place, with holes where the image reads zero.
    FILE appears when all of it is there, in place of what had its name; its mode is 0600, since
    memory holds secrets.
    """
    image = open_either(place.store, source["second"], place.name)
    write = export_elf if elf else export_raw
    with (
        reading.opened(place, **source) as reader,
        progress.bar(f"exporting {place.name}") as show,
    ):
        done = write(image, reader, output, progress=show)
    if as_json:
        json_output.show(SCHEMA, done)
        return
    terminal.say(
        f"{done.path}: {human(done.length)}, {human(done.data)} of it data, the rest holes"
    )
