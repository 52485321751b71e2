"""What a client found out, as words or JSON, and the exit code of it."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.table import Table

from userfault.cli.client.crew import Outcome, Verdict
from userfault.cli.client.hostile import Played
from userfault.cli.shared import json_output, terminal
from userfault.cli.shared.screen import Screen

SCHEMA = "userfault.client/1"


def outcome(protocol: str, found: Outcome, seed: int, *, as_json: bool) -> int:
    """Of one client."""
    if as_json:
        json_output.show(SCHEMA, {"protocol": protocol, "seed": seed, **_values(found)})
        return found.verdict.code
    terminal.say(f"{found.verdict.word}" + (f": {found.why}" if found.why else ""))
    if found.result is not None:
        Screen().print(_table(found))
        for wrong in found.result.wrong:
            terminal.say(f"  {wrong.address:#x} (offset {wrong.offset:#x}): {wrong.what}")
            if wrong.due:
                terminal.say(f"    due   {wrong.due}")
                terminal.say(f"    found {wrong.found}")
    if found.verdict is not Verdict.RIGHT:
        terminal.say(f"again with: --seed {seed}")
    return found.verdict.code


def hostile(found: list[Played], *, as_json: bool) -> int:
    """Of hostile ones: the worst that happened to an honest client."""
    code = max((each.verdict.code for each in found), default=0)
    if as_json:
        json_output.show(SCHEMA, {"hostile": [_played(each) for each in found]})
        return code
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("variant", "what the handler did", "honest meanwhile", "after"):
        table.add_column(name, overflow="fold")
    for each in found:
        table.add_row(each.variant, each.did, each.during.verdict.word, each.after.verdict.word)
    Screen().print(table)
    for each in found:
        for other in (each.during, each.after):
            if other.verdict is not Verdict.RIGHT:
                terminal.say(
                    f"{each.variant}: an honest client was {other.verdict.word}: {_why(other)}"
                )
    return code


def _why(found: Outcome) -> str:
    if found.result is not None and found.result.wrong:
        return found.result.wrong[0].what
    return found.why


def _played(each: Played) -> dict[str, Any]:
    return {
        "variant": each.variant,
        "is": each.is_what,
        "did": each.did,
        "during": _values(each.during),
        "after": _values(each.after),
    }


def _values(found: Outcome) -> dict[str, Any]:
    return {
        "verdict": found.verdict.word,
        "why": found.why,
        "waiting": msgspec.to_builtins(found.waiting),
        "result": msgspec.to_builtins(found.result),
    }


def _table(found: Outcome) -> Table:
    """The counts and durations."""
    result = found.result
    assert result is not None
    rows = [
        ("pages", f"{result.pages}, {result.touches} touches in {result.seconds:.2f} s"),
        ("compared", f"{result.checked} pages, {result.wrong_pages} wrong"),
    ]
    changes = [
        (result.removed, "ranges given back"),
        (result.written, "writes"),
        (result.by_kernel, "touches by system calls"),
    ]
    if any(count for count, _ in changes):
        rows.append(("done", ", ".join(f"{count} {what}" for count, what in changes if count)))
    if result.answered:
        rows.append(("the handler wrote", f"{result.answered[:64]}: it has to be silent"))
    if result.closed:
        rows.append(("the connection", "was closed by the handler"))
    took = result.latency
    rows.append(
        (
            "faults",
            f"{took.faults} waited: p50 {took.p50_us:g} µs, p90 {took.p90_us:g} µs,"
            f" p99 {took.p99_us:g} µs, max {took.max_us:g} µs"
            if took.faults
            else "none had to wait",
        )
    )
    rows += [("note", note) for note in result.notes]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
