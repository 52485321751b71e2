"""`userfault vm restore`: go on with a guest that was saved."""

from __future__ import annotations

import click

from userfault.cli.shared import errors, json_output
from userfault.cli.vm.telling import show_resumed
from userfault.vmm.restoring import saved
from userfault.vmm.trial import MEMORIES, resume_one

SCHEMA = "userfault.vm.restore/1"


@click.command()
@click.argument("place", metavar="STORE/NAME")
@click.option(
    "--memory",
    type=click.Choice(MEMORIES),
    default="anon",
    show_default=True,
    help="What its memory is to be of.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def restore(place: str, memory: str, as_json: bool) -> int:
    """Bring the guest NAME up again, and let it run to its end.

    Its pages come when it touches them; a guest_memfd is filled before.
    """
    saved(place)  # what is wrong with the snapshot is told as an error of its own
    resumed = resume_one(place, memory)
    if as_json:
        json_output.show(SCHEMA, resumed)
    else:
        show_resumed(resumed)
    if resumed.failed:
        return errors.LACKING if resumed.lacking else errors.FAILED
    return 0
