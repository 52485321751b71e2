"""How scenarios, results and timelines look on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.switches import SWITCHES
from userfault.check.explore.telling.timeline import Timeline
from userfault.cli.explore.pieces import Result
from userfault.cli.shared import terminal
from userfault.model.profiles import Config


def print_list(console: Console, scenarios: Sequence[Scenario]) -> None:
    """Names and sentences, and the old bugs that can be put back."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("scenario", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("what it puts together", ratio=1, overflow="fold")
    for one in scenarios:
        table.add_row(one.name, one.kernel, one.sentence)
    console.print(table)
    if SWITCHES:
        console.print("\nold bugs that --switch puts back")
        table = Table(box=None, padding=(0, 2, 0, 0))
        for switch in SWITCHES.values():
            table.add_row(switch.name, switch.sentence, switch.fix)
        console.print(table)


def print_left_out(console: Console, left_out: Mapping[str, Sequence[str]]) -> None:
    """Scenarios that have no meaning here, by the reason."""
    for why, names in left_out.items():
        console.print(Text(f"left out {why}: {', '.join(names)}", "dim"))


def print_result(console: Console, result: Result) -> None:
    """One line: what it is, what was seen, how fast."""
    bugs = f" +{'+'.join(result.bugs)}" if result.bugs else ""
    design = f" under {result.design}" if result.design != Config().design else ""
    rate = result.schedules / result.seconds if result.seconds else 0.0
    console.print(
        Text.assemble(
            _verdict(result),
            f" {result.scenario}{bugs} on {result.kernel}{design}: {result.schedules} schedules"
            f"{_cut(result)}{_reduction(result)}, {len(result.outcomes)} outcomes, at most"
            f" {result.depth} steps, {result.seconds:.2f} s ({rate:.0f}/s)",
        )
    )


def _verdict(result: Result) -> Text:
    if result.failure is not None:
        return Text("broken", "bold red")
    return Text("clean ", "green") if result.exhausted else Text("open  ", "yellow")


def _cut(result: Result) -> str:
    return f" and {result.cut} cut short" if result.cut else ""


def _reduction(result: Result) -> str:
    if result.plain is None or result.strategy != "reduced":
        return ""
    if not result.plain.complete and result.reduction < 1:
        return ""  # too few were counted to say anything
    more = "" if result.plain.complete else "more than "
    return f" of {more}{result.plain.schedules} (1 in {more}{result.reduction:.0f})"


def print_unseen(console: Console, result: Result, *, kept: bool) -> None:
    """What a search that was not exhausted leaves open."""
    if result.strategy in ("random", "pct"):
        told = "random schedules: what they did not meet is not known"
    elif result.strategy == "plain":
        told = "the schedules beyond the bound were not seen"
    else:
        told = f"at least {result.left} more kinds of schedules were not seen"
    more = "; --continue goes on there" if kept else ""
    console.print(Text(f"       {result.scenario}: {told}{more}", "yellow"))


def print_failure(console: Console, result: Result, timeline: Timeline) -> None:
    """What broke, step by step, and the line that shows it again."""
    failure = result.failure
    assert failure is not None
    console.print(
        f"after {failure.after} schedules; the shortest has {failure.steps} steps and"
        f" {failure.preemptions} preemptions"
    )
    print_timeline(console, timeline)


def print_timeline(
    console: Console, timeline: Timeline, command: str = "userfault explore"
) -> None:
    """Its steps, and the command and line that show them again."""
    print_steps(console, timeline)
    console.print("see it again:")
    terminal.say(f"  {command} --replay {timeline.line}\n")


def print_steps(console: Console, timeline: Timeline) -> None:
    """Tasks as columns, steps as rows."""
    table = Table(padding=(0, 1), show_lines=False)
    table.add_column("", justify="right")
    for name in timeline.tasks.values():
        table.add_column(name, no_wrap=True)
    table.add_column("what changed", ratio=1, overflow="fold")
    for number, row in enumerate(timeline.rows, 1):
        point = Text(row.point, "bold" if row.preempts else "")
        cells = [point if task == row.task else Text() for task in timeline.tasks]
        table.add_row(str(number), *cells, Text("\n".join(row.changes)))
    console.print(table)
    if timeline.violation is not None:
        console.print(Text(f"{timeline.violation.kind}: {timeline.violation.name}", "bold red"))
        console.print(Text(timeline.violation.text))
    for name, value in timeline.outcome or ():
        console.print(f"  {name}: {value}")
