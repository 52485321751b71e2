"""How stores, snapshots and sizes are written on the command line."""

from __future__ import annotations

import os
from typing import NamedTuple

import click

from userfault.kernel.errors import UsageError
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_existing, open_objects
from userfault.snapshot.stores.urls import folder_of, last_part, scheme_of


class Place(NamedTuple):
    """A snapshot: its store, a path or URL, and its name."""

    store: str
    name: str

    def open(self, *, into_existing: bool = False) -> Objects:
        """The store.  Raises UsageError, Unavailable, StoreError."""
        return open_objects(self.store, into_existing=into_existing)

    def open_existing(self) -> Objects:
        """The same for what changes a store that is there: it makes none.  Raises NoSuchStore."""
        return open_existing(self.store)


def snapshot(ctx: click.Context, param: click.Parameter | None, value: str) -> Place:
    """The callback of an argument `STORE/NAME`: what is behind the last slash is the name."""
    store, name = last_part(value)
    if "/" not in value or not name or store.endswith(":/"):
        raise click.BadParameter(
            f"{value!r} is no snapshot: write STORE/NAME, as /srv/memory/web-1, ./store/web-1"
            " or s3://bucket/prefix/web-1",
            ctx,
            param,
        )
    try:
        return Place(store or "/", check_name(name))
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def store(ctx: click.Context, param: click.Parameter | None, value: str) -> str:
    """The callback of an argument that is a store which is there, a folder or a URL."""
    try:
        folder = folder_of(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if not scheme_of(folder) and not os.path.isdir(folder):
        raise click.BadParameter(f"there is no folder {folder}", ctx, param)
    return value


def snapshots(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[Place, ...]:
    """The callback of several of them."""
    return tuple(snapshot(ctx, param, value) for value in values)


def sibling(ctx: click.Context, value: str, beside: Place) -> Place:
    """A snapshot that may be named alone where it is in the store of `beside`."""
    return snapshot(ctx, None, value if "/" in value else f"{beside.store}/{value}")


def human(size: int) -> str:
    """A number of bytes, short."""
    if size < 1 << 10:
        return f"{size} B"
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / (1 << 10):.1f} KiB"
