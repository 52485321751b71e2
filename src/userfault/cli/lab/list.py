"""`userfault lab list`: which kernels are there, and which could be fetched."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from userfault.cli.lab.names import CACHE
from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.lab.store import Store
from userfault.lab.suites import SUITES


@click.command("list")
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
