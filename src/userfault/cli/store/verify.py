"""`userfault verify`: whether a store is whole."""

from __future__ import annotations

import click

from userfault.cli.shared import errors, json_output, progress, terminal
from userfault.cli.store.places import snapshot, store
from userfault.snapshot.stores.opening import open_existing, open_objects
from userfault.snapshot.upkeep.verify import Verified
from userfault.snapshot.upkeep.verify import verify as verify_store

SCHEMA = "userfault.verify/1"

_EPILOG = """\b
Examples:
  userfault verify /srv/memory/web
  userfault verify --all s3://bucket/snapshots --json
Exit codes: 0 whole, 1 something is damaged or missing, or there is no store.
"""


@click.command(epilog=_EPILOG)
@click.argument("place", metavar="STORE/NAME")
@click.option(
    "--all", "everything", is_flag=True, help="The argument is a store: verify all of it."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def verify(ctx: click.Context, /, place: str, everything: bool, as_json: bool) -> int:
    """Read and check a snapshot with all that it lies on, or a whole store.

    Each chunk is read once, compared with its digest and decompressed.
    """
    where, name = (store(ctx, None, place), None) if everything else snapshot(ctx, None, place)
    objects = open_existing(where) if everything else open_objects(where)
    with progress.bar(f"verifying {place}") as show:
        found = verify_store(objects, name, progress=show)
    if as_json:
        json_output.show(SCHEMA, {"sound": found.sound, **_fields(found)})
    else:
        _print(found)
    return 0 if found.sound else errors.FAILED


def _fields(found: Verified) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _print(found: Verified) -> None:
    for damage in found.damage:
        terminal.say(f"{damage.what}: {damage.problem}")
        if damage.snapshots:
            terminal.say(f"  hurts: {', '.join(damage.snapshots)}")
        if damage.cure:
            terminal.say(f"  cure:  {damage.cure}")
    verdict = "whole" if found.sound else f"{len(found.damage)} damaged"
    terminal.say(f"{verdict}: {found.snapshots} snapshots, {found.chunks} chunks were checked")
