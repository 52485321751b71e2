"""`userfault report`: a recorded trace as a page to look at."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from userfault.cli.shared import json_output, terminal
from userfault.cli.trace.figures import Figures, figures
from userfault.cli.trace.page import page
from userfault.cli.trace.reading import read
from userfault.kernel.errors import UsageError
from userfault.kernel.names import shown
from userfault.pager.core.rehearsal import touches_of

SCHEMA = "userfault.report/1"


class Summary(msgspec.Struct):
    """What `--json` prints, after the schema: times in seconds, `filled` in pages."""

    trace: str
    pages: int
    page_size: int
    seconds: float
    faults: int
    unanswered: int
    waited_s: float
    p50_s: float
    p99_s: float
    longest_s: float
    filled: dict[str, int]
    bytes_by_kind: dict[str, int]
    in_advance: dict[str, dict[str, int | None]]
    dropped: int
    evicted: int
    resumed: int
    lost: int
    full: bool


@click.command(epilog="Example: userfault report --touches touch.trace restore.trace")
@click.argument("path", metavar="TRACE")
@click.option("--output", "-o", metavar="FILE", type=click.Path(path_type=Path),
              help="The page to write (default: TRACE.html).")  # fmt: skip
@click.option("--touches", metavar="TRACE",
              help="A touch trace of the same work: what was filled for nothing.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON; write no page.")
def report(path: str, output: Path | None, touches: str | None, as_json: bool) -> None:
    """Show what faulted and what was filled, when, where and for whom, as one HTML page.

    TRACE is recorded by Policy(trace=TRACE). The page needs no network and no script.
    """
    recorded = read(path)
    known = None
    if touches is not None:
        other = read(touches)
        if (other.header.pages, other.header.page_size) != (
            recorded.header.pages,
            recorded.header.page_size,
        ):
            raise UsageError(
                f"{shown(touches)} is of other memory than {shown(path)}",
                cause="their pages differ in number or size",
                cure="record both with the same source and memory type",
            )
        known = {touch.page for touch in touches_of(other)}
    found = figures(recorded, known)
    if as_json:
        json_output.show(SCHEMA, _summary(path, found))
        return
    target = output or Path(f"{path}.html")
    target.write_text(page(path, found), encoding="utf-8", errors="replace")
    terminal.say(f"wrote {shown(str(target))}")


def _summary(path: str, found: Figures) -> Summary:
    header = found.header
    return Summary(
        trace=path,
        pages=header.pages,
        page_size=header.page_size,
        seconds=found.seconds,
        faults=len(found.faults),
        unanswered=found.unanswered,
        waited_s=sum(found.waits),
        p50_s=found.wait_at(0.5),
        p99_s=found.wait_at(0.99),
        longest_s=found.wait_at(1.0),
        filled=found.pages,
        bytes_by_kind=found.bytes_by_kind,
        in_advance={
            name: {"filled": usage.filled, "touched": usage.touched}
            for name, usage in found.planners.items()
        },
        dropped=found.dropped,
        evicted=found.evicted,
        resumed=found.resumed,
        lost=found.lost,
        full=found.full,
    )
