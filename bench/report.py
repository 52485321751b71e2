"""What a run found, as text, as JSON and as a table for the documentation."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.measure import Check, Row


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    machine: dict[str, str]
    tiny: bool
    rows: list[Row]
    checks: list[Check]
    left_out: list[str]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


HEAD = (
    *("", "case", "unit", "ours", "C", "ratio", "lowest-highest", "target", "met"),
    *("CPU µs a fault, ours and C", "notes"),
)


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table, as text."""
    return (
        row.benchmark,
        row.case,
        row.unit,
        _figure(row.ours),
        _figure(row.rival) if row.rival else "",
        f"{row.ratio:.2f}" if row.ratio else "",
        f"{row.spread[0]:.2f}-{row.spread[1]:.2f}" if row.ratio else "",
        f"{row.ratio_of or 'ours'} {row.target}" if row.target else "",
        {True: "yes", False: "NO", None: ""}[row.met],
        f"{row.cpu_us[0]:.1f}, {row.cpu_us[1]:.1f}" if any(row.cpu_us) else "",
        row.note,
    )


def show(row: Row) -> str:
    """One row for the terminal: two lines."""
    _, case, unit, ours, rival, ratio, spread, target, _, cpu, note = cells(row)
    line = f"    ours {ours} {unit}"
    if rival:
        line += f", {row.rival_name} {rival}"
    if ratio:
        line += f"; {row.ratio_of} {ratio} ({spread}, {row.rounds} rounds)"
    if target:
        line += f"; target {target}: {'met' if row.met else 'MISSED'}"
    if cpu:
        line += f"; CPU a fault: ours {row.cpu_us[0]:.1f} µs, C {row.cpu_us[1]:.1f}"
    return f"  {case}\n{line}" + (f"; {note}" if note else "")


def markdown(rows: list[Row]) -> str:
    """The rows as a table for docs/performance.md."""
    names = {row.rival_name for row in rows if row.rival}
    rival = names.pop() if len(names) == 1 else "rival"
    head = tuple(rival if each == "C" else each.replace(" C", f" {rival}") for each in HEAD)
    lines = [head, ("---",) * len(HEAD), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(report: Report, path: Path, section: str = "figures") -> None:
    """Put machine and table into a document, between the two marks of a section."""
    first, last = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    text = path.read_text()
    before, _, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not end:
        raise ValueError(f"{path} has no lines {first} and {last}")
    machine = "\n".join(f"- {key}: {value}" for key, value in report.machine.items())
    left_out = "".join(f"\nLeft out: {line}\n" for line in report.left_out)
    body = f"{machine}\n\n{markdown(report.rows)}\n{left_out}"
    path.write_text(f"{before}{first}\n{body}{last}{after}")


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
