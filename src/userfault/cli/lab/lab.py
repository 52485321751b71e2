"""`userfault lab`: other real kernels, booted in QEMU."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from userfault.cli.lab.matrix import matrix
from userfault.cli.lab.names import CACHE, every, fetch_one
from userfault.cli.lab.reproduce import reproduce
from userfault.cli.lab.run import run
from userfault.cli.shared import json_output, terminal
from userfault.cli.shared.terminal import Screen
from userfault.lab.machine import install_qemu
from userfault.lab.store import Store
from userfault.lab.suites import SUITES


@click.group()
def lab() -> None:
    """Boot other real kernels in QEMU, and run checks or commands inside.

    No KVM and no privilege is needed; what it fetches is unpacked in a cache folder, nothing is
    installed (but QEMU, where `fetch --qemu` asks for it).
    """


@lab.command("list")
@CACHE
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_(cache: Path | None, as_json: bool) -> int:
    """List the kernels that are there, and the suites that one can be fetched from."""
    known = Store(cache).kernels()
    if as_json:
        for kernel in known:
            json_output.line(kernel)
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("suite", "version", "release"):
        table.add_column(title, no_wrap=True)
    for found in SUITES.values():
        there = [kernel for kernel in known if kernel.suite == found.name]
        for kernel in there:
            table.add_row(kernel.suite, kernel.version, kernel.release)
        if not there:
            table.add_row(found.name, "", f"not fetched: {found.kernels}")
    Screen().print(table)
    return 0


@lab.command()
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


lab.add_command(run)
lab.add_command(reproduce)
lab.add_command(matrix)
