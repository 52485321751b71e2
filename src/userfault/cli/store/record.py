"""`userfault record`: the working sets of snapshots."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import click
from rich.table import Table

from userfault.cli.shared import json_output, terminal
from userfault.cli.shared.screen import Screen
from userfault.cli.store.places import human, snapshot
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import NoSuchObject
from userfault.snapshot.format.first_touch import ends
from userfault.snapshot.format.working_set import WorkingSet, merged
from userfault.snapshot.serving.layers import read_layer
from userfault.snapshot.stores.opening import open_existing
from userfault.snapshot.working_sets import keeping
from userfault.snapshot.working_sets.naming import of_file, of_snapshot
from userfault.snapshot.working_sets.place import Place

SCHEMA = "userfault.record/1"


class Named(NamedTuple):
    """Where a set is, and of which image it has to be (None: of any)."""

    place: Place
    tie: bytes | None


def _named(ctx: click.Context, param: click.Parameter, value: str) -> Named:
    """The callback of an argument: a file with a set, or a snapshot, which has its own."""
    if os.path.isfile(value) or "/" not in value:
        return Named(of_file(value), None)
    where = snapshot(ctx, param, value)
    objects = open_existing(where.store)
    layer = read_layer(objects, where.name)
    spare = keeping.spare_folder(None)
    return Named(of_snapshot(objects.url, where.name, spare), layer.digest)


_WHICH = "STORE/NAME|FILE"


@click.group(epilog="Example: userfault record show /srv/memory/web")
def record() -> None:
    """Show and manage working sets: the pages that a restored program touches first.

    The first restore of a snapshot records one, by itself (policy `record`); the next restores get
    its pages ahead of their faults.  A set lies beside its snapshot, or in a file that was named.
    """


@record.command(epilog="Example: userfault record show --json /srv/memory/web")
@click.argument("which", metavar=_WHICH, callback=_named)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(which: Named, as_json: bool) -> None:
    """Show how many pages a set has, and when they are touched first."""
    held = _read(which)
    if as_json:
        json_output.show(SCHEMA, _values(which, held))
        return
    everything = len(held.all)
    state = "; the next restore is recorded" if held.stale else ""
    terminal.say(
        f"{which.place.shown}: {everything} pages of {human(held.page_size)}"
        f" ({human(everything * held.page_size)}) of {held.pages}, from {held.restores}"
        f" {'restore' if held.restores == 1 else 'restores'}{state}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("touched first within", justify="right")
    table.add_column("pages", justify="right")
    for number, pages in enumerate(held.classes):
        if pages:
            end = ends(number)
            when = f"{end:g} s" if end != float("inf") else "any time"
            table.add_row(when, str(len(pages)))
    for number, pages in enumerate(held.missed, 1):
        if pages:
            table.add_row(f"not in the last {number}", str(len(pages)))
    Screen().print(table)


@record.command(epilog="Example: userfault record again /srv/memory/web")
@click.argument("which", metavar=_WHICH, callback=_named)
def again(which: Named) -> None:
    """Have the next restore recorded, and merged with what there is."""
    held = _read(which)
    held.stale = True
    _keep(which, held)
    terminal.say(f"the next restore of {which.place.shown} is recorded")


@record.command(epilog="Example: userfault record drop /srv/memory/web")
@click.argument("which", metavar=_WHICH, callback=_named)
def drop(which: Named) -> None:
    """Remove a set: the next restore is recorded anew."""
    dropped = keeping.drop(which.place, which.tie)
    for where in dropped:
        terminal.say(f"removed {where}")
    if not dropped:
        terminal.say(f"{which.place.shown} has no working set")


@record.command(epilog="Example: userfault record merge other-host.set /srv/memory/web")
@click.argument("what", metavar=_WHICH, callback=_named)
@click.argument("into", metavar=_WHICH, callback=_named)
def merge(what: Named, into: Named) -> None:
    """Put one set into another one of the same image, as if it were its next restore.

    Where there is no other one, it is copied.
    """
    new = _read(what)
    if into.tie is not None and into.tie != new.tie:
        raise _other_image(what, into)
    old = _found(into)
    if old is not None and old.tie != new.tie:
        raise _other_image(what, into)
    _keep(into, new if old is None else merged(old, new))
    terminal.say(f"merged {what.place.shown} into {into.place.shown}")


def _other_image(what: Named, into: Named) -> UsageError:
    return UsageError(
        f"{what.place.shown} is not of the image that {into.place.shown} is of",
        cause="a set is tied to its image by a digest",
        cure="record one: `userfault record drop`, then restore",
    )


def _found(which: Named) -> WorkingSet | None:
    place, tie = which
    return keeping.any_of(place) if tie is None else keeping.load(place, tie)


def _read(which: Named) -> WorkingSet:
    held = _found(which)
    if held is None:
        raise NoSuchObject(
            f"there is no working set of {which.place.shown}",
            cause="no restore of it was recorded, or the set is of another image",
            cure="restore it once",
        )
    return held


def _keep(which: Named, held: WorkingSet) -> None:
    where = keeping.keep(which.place, held)
    if where:
        terminal.say(f"userfault: it is kept in {where}", err=True)


def _values(which: Named, held: WorkingSet) -> dict[str, Any]:
    classes = [
        {"within_s": None if ends(number) == float("inf") else ends(number), "pages": len(pages)}
        for number, pages in enumerate(held.classes)
    ]
    return {
        "where": which.place.shown,
        "page_size": held.page_size,
        "image_pages": held.pages,
        "pages": len(held.all),
        "restores": held.restores,
        "stale": held.stale,
        "classes": classes,
        "missed": [len(pages) for pages in held.missed],
    }
