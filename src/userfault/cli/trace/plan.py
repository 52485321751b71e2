"""`userfault plan`: a recorded trace again, with other policies and without memory."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table

from userfault.cli.shared import json_output
from userfault.cli.shared.screen import Screen
from userfault.cli.trace.reading import read
from userfault.kernel.memtypes import KIB, MIB
from userfault.kernel.names import shown
from userfault.pager.core.policy import Policy
from userfault.pager.core.rehearsal import Outcome, Prices, rehearse, touches_of
from userfault.pager.core.trace import Header

SCHEMA = "userfault.plan/1"
_AROUND = ("page", "order", "block", "cost")
_NAMES = (*_AROUND, *(f"{name}+background" for name in _AROUND))
_DEFAULT = (*_AROUND, "cost+background")
_PRICES = Prices()


@click.command(epilog="Example: userfault plan --policy cost --policy block restore.trace")
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option("--policy", "policies", metavar="NAME", multiple=True, type=click.Choice(_NAMES),
              help=f"One of {', '.join(_AROUND)}, alone or with +background; several are compared"
              f" (default: {', '.join(_DEFAULT)}).")  # fmt: skip
@click.option("--window", metavar="KIB", type=click.IntRange(1, 1 << 20), default=256,
              help="The largest fill around a fault (default: 256).")  # fmt: skip
@click.option("--fault-us", metavar="US", type=click.FloatRange(0), default=_PRICES.fault * 1e6,
              help="What a fault costs, without its pages (default: 20).")  # fmt: skip
@click.option("--page-us", metavar="US", type=click.FloatRange(0), default=_PRICES.page * 1e6,
              help="What filling 4 KiB costs (default: 1.6).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a trace, in a line.")
def plan(
    traces: Sequence[str],
    policies: Sequence[str],
    window: int,
    fault_us: float,
    page_us: float,
    as_json: bool,
) -> None:
    """Replay recorded touches through policies, and compare what the client would have waited.

    TRACE is a touch trace, as Policy(background=False, window_bytes=1, trace=TRACE) records one.
    No memory is mapped, and no time passes: what a fault and a page cost is told by the options.
    """
    prices = Prices(fault=fault_us / 1e6, page=page_us / 1e6)
    console = Screen()
    for path in traces:
        recorded = read(path)
        touches = touches_of(recorded)
        header = recorded.header
        found = {
            name: rehearse(
                touches, header.pages, header.page_size, _policy(name, window * KIB), prices
            )
            for name in policies or _DEFAULT
        }
        if as_json:
            values = {"trace": path, "pages": header.pages, "page_size": header.page_size}
            json_output.line({"schema": SCHEMA, **values, "policies": found})
        else:
            console.print(_head(path, header, len(touches)), markup=False, soft_wrap=True)
            console.print(_table(found, header.page_size))


def _policy(name: str, window: int) -> Policy:
    around, _, background = name.partition("+")
    return Policy(background=bool(background), fill_around=around, window_bytes=window)


def _head(path: str, header: Header, touched: int) -> str:
    return (
        f"{shown(path)}: {touched} of {header.pages} pages of {header.page_size // KIB} KiB touched"
    )


def _table(found: dict[str, Outcome], page_size: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("policy", no_wrap=True)
    for name in ("faults", "avoided", "for nothing", "waited", "longest", "in all"):
        table.add_column(name, justify="right")
    for name, outcome in found.items():
        wasted = outcome.for_nothing * page_size / MIB
        table.add_row(
            name,
            str(outcome.faults),
            f"{(outcome.touched - outcome.faults) / max(outcome.touched, 1):.0%}",
            f"{wasted:.1f} MiB",
            f"{outcome.waited_s * 1e3:.1f} ms",
            f"{outcome.longest_s * 1e3:.2f} ms",
            f"{outcome.total_s * 1e3:.1f} ms",
        )
    return table
