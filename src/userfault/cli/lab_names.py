"""How the commands of the lab name a kernel."""

from __future__ import annotations

from pathlib import Path

import click

from userfault.cli import terminal
from userfault.lab.store import Kernel, Store
from userfault.lab.suites import SUITES, suite

CACHE = click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where kernels are kept (default: ~/.cache/userfault/lab).",
)


def find(store: Store, name: str) -> Kernel:
    """The kernel of this name; the newest of a suite is fetched if none of it is there."""
    if name in SUITES and not any(kernel.suite == name for kernel in store.kernels()):
        return store.fetch(suite(name), lambda told: terminal.say(told, err=True))
    return store.find(name)
