"""`userfault vm save`: a guest that is saved while it runs."""

from __future__ import annotations

import click

from userfault.cli.shared import json_output
from userfault.cli.vm.telling import guest_options, show_saved
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.vmm.trial import save_one

SCHEMA = "userfault.vm.save/1"


@click.command()
@click.argument("place", metavar="STORE/NAME")
@guest_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def save(
    place: str,
    size: int,
    cpus: int,
    kernel_mode: bool,
    pattern: str,
    seconds: float,
    as_json: bool,
) -> None:
    """Run a guest, and store it as the snapshot NAME while it runs.

    It then runs to its end; the sums that are told are what `userfault vm restore` ends with, too.
    """
    saved = save_one(
        place,
        pages=size * MIB // BASE_PAGE,
        cpus=cpus,
        user=not kernel_mode,
        seconds=seconds,
        pattern=pattern,
    )
    if as_json:
        json_output.show(SCHEMA, saved)
    else:
        show_saved(saved)
