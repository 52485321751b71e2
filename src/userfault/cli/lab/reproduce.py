"""`userfault lab reproduce`: one change of behaviour, on two kernels side by side."""

from __future__ import annotations

from pathlib import Path

import click

from userfault.cli.lab.names import CACHE, find
from userfault.cli.shared import terminal
from userfault.lab.collect import programs_in_guest
from userfault.lab.reproduce import reproducer, reproducers, run_here
from userfault.lab.results import HERE
from userfault.lab.store import Store

_NEWEST = "trixie-backports"


@click.command()
@CACHE
@click.argument("name", required=False)
@click.argument("kernels", metavar="[KERNEL]...", nargs=-1)
def reproduce(cache: Path | None, name: str | None, kernels: tuple[str, ...]) -> int:
    """Run reproducer NAME on kernels, and print what it says on each.

    A KERNEL is `here`, a suite (its newest kernel is fetched if none is there), or a release that
    was fetched; without any it is this one and the newest of the lab.  Without NAME the
    reproducers are listed.
    """
    if name is None:
        for one in reproducers().values():
            terminal.say(f"{one.name:30} {one.question}")
        return 0
    chosen = reproducer(name)
    terminal.say(f"{chosen.question}\n{chosen.source}\n")
    for kernel in kernels or (HERE, _NEWEST):
        terminal.say(f"{kernel}: ", nl=False)
        terminal.say(_said(name, kernel, Store(cache)))
    return 0


def _said(name: str, kernel: str, store: Store) -> str:
    if kernel == HERE:
        return run_here([reproducer(name)])[name]
    found = find(store, kernel)
    return f"({found.version}) {programs_in_guest(found, [name])[name]}"
