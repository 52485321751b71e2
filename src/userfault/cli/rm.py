"""`userfault rm`: remove snapshots."""

from __future__ import annotations

import click

from userfault.cli import interrupts
from userfault.cli.store_places import Place, snapshots
from userfault.snapshot.remove import remove


@click.command(epilog="Example: userfault rm /srv/memory/web-1 /srv/memory/web-2")
@click.argument("places", metavar="STORE/NAME...", nargs=-1, required=True, callback=snapshots)
def rm(places: tuple[Place, ...]) -> None:
    """Remove snapshots; `userfault gc` gives their room back.

    One that another lies on is not removed: squash that one first.
    """
    for place in places:
        with interrupts.deferred():
            remove(place.open(), place.name)
        click.echo(f"removed {place.store}/{place.name}")
