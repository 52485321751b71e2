"""`userfault diff`: what differs between two snapshots."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import click
from rich.table import Table

from userfault.cli.shared import errors, json_output, progress, terminal
from userfault.cli.shared.screen import Screen
from userfault.cli.store import reading
from userfault.cli.store.places import Place, human, sibling, snapshot
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.serving.image import Image
from userfault.snapshot.upkeep.diff import Change, Difference, compared_by_address
from userfault.snapshot.upkeep.diff import diff as differences

SCHEMA = "userfault.diff/1"

_EPILOG = """\b
Examples:
  userfault diff /srv/memory/web web-2
  userfault diff ./store/redis s3://bucket/redis --json
Exit codes: 0 the same, 4 they differ, others as ever.
"""


@click.command(epilog=_EPILOG)
@click.argument("old", metavar="STORE/NAME", callback=snapshot)
@click.argument("new", metavar="[STORE/]NAME")
@click.option("--runs", is_flag=True, help="List the runs of pages that differ.")
@reading.options
@click.option("--json", "as_json", is_flag=True, help="Print the runs and their sum as JSON.")
@click.pass_context
def diff(
    ctx: click.Context, /, old: Place, new: str, runs: bool, as_json: bool, **source: Any
) -> int:
    """Compare two snapshots page by page.

    The second one's store is the first one's unless it is named.  Process images are compared by
    address, others by the position in the image.
    """
    places = (old, sibling(ctx, new, old))
    was, now = (open_either(place.store, source["second"], place.name) for place in places)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(reading.opened(each, **source)) for each in places]
        show = stack.enter_context(progress.bar(f"comparing {old.name} and {places[1].name}"))
        found = list(differences(was, readers[0], now, readers[1], show))
    pages: Counter[Change] = Counter()
    for each in found:
        pages[each.change] += each.pages
    if as_json:
        json_output.show(SCHEMA, _values(was, now, pages, found))
    else:
        _print(was, now, pages, found if runs else [])
    return errors.DIFFERENT if found else 0


def _values(
    was: Image, now: Image, pages: Counter[Change], found: list[Difference]
) -> dict[str, object]:
    return {
        "old": was.name,
        "new": now.name,
        "by_address": compared_by_address(was, now),
        "pages": {change.value: pages[change] for change in Change},
        "runs": found,
    }


def _print(was: Image, now: Image, pages: Counter[Change], listed: list[Difference]) -> None:
    if not pages:
        terminal.say(f"{was.name} and {now.name} are the same: {now.pages} pages")
        return
    counts = ", ".join(
        f"{pages[change]} {change.value} ({human(pages[change] * PAGE)})"
        for change in Change
        if pages[change]
    )
    terminal.say(f"{was.name} and {now.name} differ: {counts} of {now.pages} pages")
    if listed:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        where = "address" if compared_by_address(was, now) else "offset"
        table.add_column(where)
        table.add_column("pages", justify="right")
        table.add_column("what")
        for each in listed:
            table.add_row(f"{each.start:#x}", str(each.pages), each.change.value)
        Screen().print(table)
