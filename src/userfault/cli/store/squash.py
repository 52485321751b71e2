"""`userfault squash`: make a snapshot independent of its bases."""

from __future__ import annotations

import click

from userfault.cli.shared import json_output, terminal
from userfault.cli.store.places import Place, snapshot
from userfault.snapshot.upkeep.squash import squash as squash_layers

SCHEMA = "userfault.squash/1"


@click.command(epilog="Example: userfault squash /srv/memory/web-5 --to web-5-flat")
@click.argument("place", metavar="STORE/NAME", callback=snapshot)
@click.option("--to", metavar="NAME", help="The new name.  [default: in place of what was there]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def squash(place: Place, to: str | None, as_json: bool) -> None:
    """Flatten the layers of a snapshot: it lies on no other then.

    No chunk is read or written.  In its own place that is refused while others lie on it.
    """
    done = squash_layers(place.open_existing(), place.name, to)
    if as_json:
        json_output.show(SCHEMA, done)
        return
    terminal.say(
        f"{place.store}/{done.name}: {done.layers} layers are one, of {done.chunks} chunks"
    )
