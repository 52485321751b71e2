"""Reading chunks for a command: the options that say from where, and the reader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from userfault.cli.shared.sizes import told
from userfault.cli.store.places import Place
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.serving.unpacked import Chunks

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--second",
        metavar="STORE",
        help="Where to read a chunk that is missing or damaged in the first store.",
    ),
    click.option(
        "--cache",
        metavar="FOLDER",
        help="Where what is read from a remote store is kept for later; '' for nowhere."
        "  [default: USERFAULT_CACHE, else the user's cache folder]",
    ),
    click.option(
        "--cache-size", metavar="SIZE", callback=told, help="The most that the cache may take."
    ),
)


def options(command: _Command) -> _Command:
    """Give a command the options of `opened`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def opened(
    place: Place, second: str | None, cache: str | None, cache_size: int | None
) -> Iterator[Chunks]:
    """The chunks of a store, verified; closed when the block is left."""
    reader = open_reader(place.store, second=second, cache=cache, cache_size=cache_size)
    with contextlib.closing(reader):
        yield reader
