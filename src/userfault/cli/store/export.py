"""`userfault export`: a snapshot as a file again."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import click

from userfault.cli.shared import json_output, progress, terminal
from userfault.cli.store import reading
from userfault.cli.store.places import Place, human, snapshot
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving import handover
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.taking_up import take_up
from userfault.snapshot.upkeep.criu_images import export_criu
from userfault.snapshot.upkeep.elf import export_elf
from userfault.snapshot.upkeep.export import Exported, export_raw
from userfault.source.spec import StoreSpec

SCHEMA = "userfault.export/1"

_EPILOG = """\b
Examples:
  userfault export /srv/memory/web guest.mem
  userfault export --elf ./store/redis redis.core && gdb redis-server redis.core
  userfault export --criu --lazy ./store/web-0 images/ && criu restore --lazy-pages -D images/
"""


@click.command(epilog=_EPILOG)
@click.argument("place", metavar="STORE/NAME", callback=snapshot)
@click.argument("output", metavar="FILE", type=click.Path())
@click.option("--elf", is_flag=True, help="Write an ELF core: of a process image alone.")
@reading.options
@click.option("--criu", is_flag=True, help="Write images of CRIU into the folder FILE.")
@click.option("--lazy", is_flag=True, help="Of these, leave out what a lazy restore asks for.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    place: Place, output: str, elf: bool, criu: bool, lazy: bool, as_json: bool, **source: Any
) -> None:
    """Write a snapshot to a file.

    Raw, every page is at its place, with holes where the image reads zero.
    FILE appears when all of it is there, in place of what had its name; its mode is 0600, since
    memory holds secrets.
    """
    if elf and criu:
        raise click.UsageError("an ELF core or images of CRIU")
    if lazy and not criu:
        raise click.UsageError("--lazy belongs to --criu")
    image = open_either(place.store, source["second"], place.name)
    if criu:
        done = _images(place, image, output, source, lazy=lazy)
        _show(done, as_json=as_json)
        return
    if os.path.isdir(output):
        raise click.BadParameter(f"{output} is a directory", param_hint="FILE")
    write = export_elf if elf else export_raw
    with (
        reading.opened(place, **source) as reader,
        progress.bar(f"exporting {place.name}") as show,
    ):
        done = write(image, reader, output, progress=show)
    _show(done, as_json=as_json)


def _images(
    place: Place, image: Image, folder: str, source: dict[str, Any], *, lazy: bool
) -> Exported:
    resolved = handover.resolve(place.store, place.name, **source)
    try:
        assert isinstance(resolved.spec, StoreSpec)
        pages, _ = take_up(resolved.spec, resolved.fd, PAGE)
    finally:
        resolved.close()
    with contextlib.closing(pages), progress.bar(f"exporting {place.name}") as show:
        return export_criu(image, pages, folder, lazy=lazy, progress=show)


def _show(done: Exported, *, as_json: bool) -> None:
    if as_json:
        json_output.show(SCHEMA, done)
        return
    terminal.say(
        f"{done.path}: {human(done.length)}, {human(done.data)} of it data, the rest holes"
    )
