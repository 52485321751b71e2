"""What a demo found, and the table and the JSON it is shown as."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from userfault.cli.demo.client import Latency, Outcome, Refused, Restored
from userfault.kernel.memtypes import MIB, Memory, size_name

SCHEMA = "userfault.demo/1"
FILLS = {False: "demand", True: "demand+bg"}


class Target(msgspec.Struct, frozen=True):
    """The captured process.  Sizes in bytes; `stored` is what was not zero."""

    mappings: int
    length: int
    stored: int
    pages: int
    zero_pages: int
    unreadable_pages: int
    digest: str
    build_s: float
    capture_s: float


class Order(msgspec.Struct, frozen=True):
    """The touch order: pages reached by following pointers, and how long finding them took."""

    pages: int
    seconds: float


class Run(msgspec.Struct, frozen=True):
    """One restore in one client process.  `failure`: how the process ended, if not well."""

    memory: Memory
    background: bool
    outcome: Outcome | None
    expected: str
    failure: str = ""

    @property
    def restored(self) -> Restored | None:
        """What it found, where it ran to its end."""
        return self.outcome if isinstance(self.outcome, Restored) else None

    @property
    def refused(self) -> Refused | None:
        """Why this system cannot do it."""
        return self.outcome if isinstance(self.outcome, Refused) else None

    @property
    def verified(self) -> bool:
        """Every byte at the end and every byte touched was the image's."""
        found = self.restored
        return found is not None and found.digest == self.expected and found.wrong == 0

    @property
    def failed(self) -> bool:
        """It should have worked and did not."""
        return self.refused is None and not self.verified


class Demo(msgspec.Struct, frozen=True):
    """The whole demo."""

    kernel: str
    target: Target
    order: Order
    runs: list[Run]
    picture: str
    image: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Some run failed."""
        return any(run.failed for run in self.runs)

    @property
    def verified(self) -> bool:
        """Something ran, and all that ran is right."""
        return not self.failed and any(run.verified for run in self.runs)


def to_json(demo: Demo) -> dict[str, Any]:
    """As plain values; docs/commands.md has the schema."""
    plain: dict[str, Any] = msgspec.to_builtins(demo)
    plain["runs"] = [_run_json(demo, run) for run in demo.runs]
    return {"schema": SCHEMA, "verified": demo.verified, **plain}


def _run_json(demo: Demo, run: Run) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "memory": run.memory.name,
        "page_size": run.memory.page_size,
        "fill": FILLS[run.background],
        "verified": run.verified,
        "reason": _reason(run),
    }
    if found := run.restored:
        values: dict[str, Any] = msgspec.to_builtins(found)
        del values["trace"], values["type"]
        latency = values.pop("latency")
        plain |= values
        plain["first_touch_us"] = latency
        plain["mib_per_s"] = _throughput(demo, found)
    return plain


def _reason(run: Run) -> str:
    if refused := run.refused:
        return f"{refused.what}: {refused.cause}" if refused.cause else refused.what
    found = run.restored
    if found is None:
        return run.failure
    if found.wrong:
        return f"{found.wrong} touches read a wrong byte"
    return "" if run.verified else f"digest {found.digest} where the image has {run.expected}"


def _throughput(demo: Demo, found: Restored) -> float:
    return demo.target.length / MIB / found.complete_s


def table(demo: Demo) -> Table:
    """One row a memory, one line in it a run."""
    shown = Table(header_style="bold", padding=(0, 1, 0, 0), box=None)
    for name in ("memory", "page", "mode", "filled by"):
        shown.add_column(name, no_wrap=True)
    for name in ("pages", "faults", "p50", "p99", "MiB/s", "verified"):
        shown.add_column(name, justify="right", no_wrap=True)
    for memory in dict.fromkeys(run.memory for run in demo.runs):
        _add(shown, demo, [run for run in demo.runs if run.memory == memory])
    return shown


def _add(shown: Table, demo: Demo, runs: list[Run]) -> None:
    memory = runs[0].memory
    label = [memory.name.replace("-", "-\n"), size_name(memory.page_size)]
    modes = next((run.restored.mode for run in runs if run.restored), "-").replace("|", "|\n")
    columns = [_cells(demo, run) for run in runs if not run.refused]
    if not columns:
        shown.add_row(*label, "-", "-", *["-"] * 5, Text("not here", "yellow"))
        return
    joined = [Text("\n").join(cells) for cells in zip(*columns, strict=True)]
    shown.add_row(*label, modes, *joined)


def _cells(demo: Demo, run: Run) -> list[Text]:
    verdict = Text("yes", "green") if run.verified else Text("NO", "bold red")
    fill = Text(FILLS[run.background])
    found = run.restored
    if found is None:
        return [fill, *[Text("-")] * 5, verdict]
    latency = found.latency
    return [
        fill,
        Text(str(found.pages)),
        Text(str(found.counters.faults)),
        Text(_percentile(latency, "p50")),
        Text(_percentile(latency, "p99")),
        Text(f"{_throughput(demo, found):.0f}"),
        verdict,
    ]


def _percentile(latency: Latency | None, which: str) -> str:
    return time_name(getattr(latency, which)) if latency else "-"


def time_name(microseconds: float) -> str:
    """With a unit that leaves at most four digits: 64 µs, 5.5 ms, 4.7 s."""
    for unit, factor in (("µs", 1.0), ("ms", 1e3), ("s", 1e6)):
        value = microseconds / factor
        if value < 1000 or unit == "s":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "µs" else f"{value:.1f} {unit}"
    raise AssertionError("the last unit takes all")


def notes(demo: Demo) -> list[str]:
    """Why rows are missing or wrong, once each, with the cure."""
    found: dict[str, None] = {}
    for run in demo.runs:
        reason = _reason(run)
        if reason:
            cure = f" (cure: {run.refused.cure})" if run.refused and run.refused.cure else ""
            found[f"{run.memory}: {reason}{cure}"] = None
    return list(found)
