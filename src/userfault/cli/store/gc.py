"""`userfault gc`: give back the room of what no snapshot refers to."""

from __future__ import annotations

import click

from userfault.cli.shared import json_output, progress, terminal
from userfault.cli.store.places import human, store
from userfault.snapshot.stores.opening import open_existing
from userfault.snapshot.upkeep.gc import GRACE_S
from userfault.snapshot.upkeep.gc import gc as collect

SCHEMA = "userfault.gc/1"


@click.command(epilog="Example: userfault gc --dry-run s3://bucket/snapshots")
@click.argument("where", metavar="STORE", callback=store)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE_S,
    show_default=True,
    metavar="SECONDS",
    help="Keep chunks that are younger, whoever may be about to refer to them.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Wait this long for packs under way to end.  [default: fail at once]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def gc(where: str, dry_run: bool, grace: float, wait: float, as_json: bool) -> None:
    """Remove chunks that no snapshot refers to.

    Packs that run at the same time lose nothing: the two wait for each other.
    """
    with progress.bar("looking at chunks") as show:
        done = collect(
            open_existing(where), dry_run=dry_run, grace_s=grace, wait_s=wait, progress=show
        )
    if as_json:
        json_output.show(SCHEMA, done)
        return
    did = "would remove" if done.dry_run else "removed"
    terminal.say(
        f"{did} {done.chunks} chunks ({human(done.chunk_bytes)}); {done.kept} are kept,"
        f" {done.kept_young} of them for being younger than --grace"
        + (f"; {done.redated} were dated ahead, and have the date of now" if done.redated else "")
    )
