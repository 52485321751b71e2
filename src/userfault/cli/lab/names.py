"""How the commands of the lab name a kernel."""

from __future__ import annotations

from pathlib import Path

import click

from userfault.cli.shared import terminal
from userfault.lab.apt import NoPackage
from userfault.lab.store import Kernel, Store
from userfault.lab.suites import SUITES, suite

CACHE = click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where kernels are kept (default: ~/.cache/userfault/lab).",
)


def every(store: Store, *, again: bool) -> list[Kernel]:
    """The newest kernel of every suite; `again`: also where one is there already.

    A series that the mirror has no more is left out, and told of.
    """
    found = []
    for name in SUITES:
        try:
            found.append(fetch_one(store, name) if again else find(store, name))
        except NoPackage as error:
            if not suite(name).series:
                raise
            terminal.say(f"{name}: left out: {error}", err=True)
    return found


def fetch_one(store: Store, name: str) -> Kernel:
    """The newest kernel of a suite, as the mirror has it now."""
    return store.fetch(suite(name), lambda told: terminal.say(told, err=True))


def find(store: Store, name: str) -> Kernel:
    """The kernel of this name; the newest of a suite is fetched if none of it is there."""
    if name in SUITES and not any(kernel.suite == name for kernel in store.kernels()):
        return fetch_one(store, name)
    return store.find(name)
