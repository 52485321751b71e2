"""`userfault rm`: remove snapshots."""

from __future__ import annotations

import click

from userfault.cli.shared import json_output, terminal
from userfault.cli.store.places import Place, snapshots
from userfault.snapshot.upkeep.remove import remove

SCHEMA = "userfault.rm/1"


@click.command(epilog="Example: userfault rm /srv/memory/web-1 /srv/memory/web-2")
@click.argument("places", metavar="STORE/NAME...", nargs=-1, required=True, callback=snapshots)
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def rm(places: tuple[Place, ...], as_json: bool) -> None:
    """Remove snapshots; `userfault gc` gives their room back.

    One that another lies on is not removed: squash that one first.
    """
    for place in places:
        remove(place.open_existing(), place.name)
        if not as_json:
            terminal.say(f"removed {place.store}/{place.name}")
    if as_json:
        json_output.show(SCHEMA, {"removed": [f"{each.store}/{each.name}" for each in places]})
