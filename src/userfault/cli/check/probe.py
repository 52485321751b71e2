"""`userfault probe`: what this kernel does for each memory type."""

from __future__ import annotations

import itertools
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from userfault.cli.shared import interrupts, json_output
from userfault.cli.shared.screen import Screen
from userfault.kernel.memtypes import MemoryType, size_name
from userfault.linux import probe as probing
from userfault.linux.probe import Cell, Report

SCHEMA = "userfault.probe/1"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--grow-pool",
    is_flag=True,
    help="Add a page to each empty hugetlb pool, and take it away again (needs root).",
)
def probe(as_json: bool, grow_pool: bool) -> None:
    """Show what this kernel's userfaultfd does for each memory type.

    Every memory type is mapped, in each of its page sizes, and registered in each mode: the ioctls
    are what the kernel answered, a no says why.
    """
    with interrupts.deferred():  # it is short, and gives back the pages it adds to a pool
        report = probing.probe(grow_pool=grow_pool)
    if as_json:
        json_output.whole(to_json(report))
        return
    console = Screen()
    console.print(_summary(report))
    console.print(_table(report))
    if not grow_pool and any(_lacks_pages(cell) for cell in report.cells):
        console.print(
            "A hugetlb pool is empty: `userfault probe --grow-pool` fills it for a moment."
        )


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values; docs/commands.md has the schema."""
    return {"schema": SCHEMA, **msgspec.to_builtins(report)}


def _summary(report: Report) -> Table:
    limits = "faults of user mode only: system calls on missing pages fail with EFAULT"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("kernel", f"Linux {report.kernel}")
    table.add_row("opened by", report.opened_by)
    table.add_row("serves", limits if report.user_mode_only else "all faults")
    table.add_row("features", " ".join(report.features) or "none")
    table.add_row("missing", " ".join(report.missing_features) or "none")
    table.add_row()
    return table


def _table(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("memory", no_wrap=True)
    table.add_column("page", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("ioctls that work on it, or why there are none", overflow="fold")
    for (name, page_size), row in itertools.groupby(
        report.cells, lambda cell: (cell.memory, cell.page_size)
    ):
        cells = list(row)
        for number, (modes, cell) in enumerate(_merged(cells)):
            label = (name, size_name(page_size)) if number == 0 else ("", "")
            table.add_row(*label, modes, _answer(cell))
        table.add_row()
    return table


def _merged(cells: list[Cell]) -> list[tuple[str, Cell]]:
    """Modes, one a line, and the answer they share: a reason is given once."""
    merged = []
    for _, group in itertools.groupby(cells, lambda cell: (cell.ioctls, cell.reason)):
        same = list(group)
        merged.append(("\n".join(cell.mode for cell in same), same[0]))
    return merged


def _lacks_pages(cell: Cell) -> bool:
    return not cell.works and cell.memory.startswith(MemoryType.HUGETLB.value)


def _answer(cell: Cell) -> Text:
    if cell.works:
        return Text(" ".join(cell.ioctls), "green")
    return Text.assemble(("no: ", "bold yellow"), (cell.reason, "yellow"))
