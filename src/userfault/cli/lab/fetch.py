"""`userfault lab fetch`: kernels from the mirror of a distribution."""

from __future__ import annotations

from pathlib import Path

import click

from userfault.cli.lab.names import CACHE, every, fetch_one
from userfault.cli.shared import terminal
from userfault.lab.machine import install_qemu
from userfault.lab.store import Store


@click.command()
@CACHE
@click.option("--qemu", "emulator", is_flag=True, help="Install QEMU too if it is absent (root).")
@click.argument("suites", metavar="[SUITE]...", nargs=-1)
def fetch(cache: Path | None, suites: tuple[str, ...], emulator: bool) -> int:
    """Fetch the newest kernel of each SUITE (default: all)."""
    if emulator:
        install_qemu()
    store = Store(cache)
    found = [fetch_one(store, name) for name in suites] or every(store, again=True)
    for kernel in found:
        terminal.say(f"{kernel.suite}: {kernel.version} ({kernel.release})")
    return 0
