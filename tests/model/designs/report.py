"""The generated sections of docs/designs.md: `python -m model.designs.report` writes them anew."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from model.designs.misbehaviours import MISBEHAVIOURS
from model.designs.outside import OUTSIDE
from model.designs.rows import ROWS
from model.designs.upstream import COUNTERPARTS, NOT_USERFAULTFD, OF_THE_MODEL
from model.designs.verdicts import (
    BREAKS,
    CANNOT,
    CAUGHT,
    CONTAINED,
    Verdict,
    explored,
    scenario,
    verdict,
)
from userfault.check.explore.strategies.replay import line_of
from userfault.check.explore.telling.timeline import Timeline, tell
from userfault.check.statements import load
from userfault.kernel.modes import Mode
from userfault.model.designs.catalogue import DESIGNS
from userfault.model.designs.design import Design
from userfault.model.files.folio import Object
from userfault.model.machine import Machine
from userfault.model.memtypes.ops import Facts
from userfault.model.profiles import NEXT, Config

PAGE = Path(__file__).parents[3] / "docs" / "designs.md"
TYPES = ("anon", "shmem", "hugetlb", "guest_memfd", OUTSIDE.name)
MODES = {"MISSING": Mode.MISSING, "WP": Mode.WP, "MINOR": Mode.MINOR}
_NO_TYPE = ("hardcoded", "posted")  # no type from outside, or the hooks of `merged`
_SHOWN = (  # mistakes whose timeline is told: design, mistake
    ("merged", "unlocked"),
    ("merged", "stale"),
    ("merged", "sleeps"),
    ("merged", "adds_nothing"),
    ("uffd_copy", "shows_it_first"),
    ("uffd_copy", "drops_the_lock"),
    ("ours", "unlocked"),
)
_NAMED = 3  # statements that need not be counted for the reader
Verdicts = dict[tuple[str, str], Verdict]


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def modes(design: Design, kind: str) -> list[str]:
    """With which modes a mapping of the type can be registered."""
    ops = Machine(NEXT, Config(design=design.name), types=[OUTSIDE]).types[kind]
    decide = ops.uffd.can_userfault
    target = Object(kind, 4096, traits=3) if kind != "anon" else None
    if decide is None:
        return []
    return [
        name for name, mode in MODES.items() if decide(Facts(target, target is not None, int(mode)))
    ]


def designs() -> str:
    """Every design in a line, and what it cannot serve."""
    rows = []
    for design in DESIGNS.values():
        served = [" ".join(modes(design, kind)) or "-" for kind in TYPES]
        members = design.table.__struct_fields__ if design.table is not None else ()
        says = ", ".join(f"`{name}`" for name in members) or "nothing"
        exports = ", ".join(design.exports) or "-"
        rows.append([f"`{design.name}`", design.sentence, says, *served, exports, design.source])
    heads = ["design", "", "a type says", *TYPES, "exports", "from"]
    promises = {found.number: found.promise for found in load()}
    cannot = [row for name in ROWS for row in _cannot(name, promises)]
    kept = ", ".join(f"`{name}`" for name, exceptions in ROWS.items() if not exceptions)
    return "\n\n".join(
        (
            table(heads, rows),
            f"All statements hold under {kept}. What the others cannot keep:",
            table(["design", "statement", "it says", "why it cannot be"], cannot),
        )
    )


def _cannot(design: str, promises: dict[int, str]) -> list[list[str]]:
    """Rows of what it cannot keep: a row a reason."""
    by_reason: dict[str, list[tuple[int, str]]] = {}
    for case, reason in ROWS[design].items():
        by_reason.setdefault(reason, []).append(case)
    rows = []
    for reason, cases in by_reason.items():
        numbers = sorted({number for number, _ in cases})
        named = ", ".join(map(str, numbers[:_NAMED]))
        if len(numbers) > _NAMED:
            named = f"{', '.join(map(str, numbers))} ({len(numbers)} statements)"
        first = promises[numbers[0]].replace("|", "\\|")
        more = " ..." if len(numbers) > 1 else ""
        rows.append([f"`{design}`", named, f"{first}{more}", reason])
    return rows


def upstream() -> str:
    """Our table beside upstream's."""
    ours = [[f"`{name}`", theirs, note] for name, (theirs, note) in COUNTERPARTS.items()]
    rest = [[f"`{name}`", where] for name, where in NOT_USERFAULTFD.items()]
    model = [[f"`{name}`", what] for name, what in OF_THE_MODEL.items()]
    return "\n\n".join(
        (
            table(["`UffdOps`", "`vm_uffd_ops` of 7.1, 7.2 and 7.3", "difference"], ours),
            "No counterpart, since they describe the memory and not userfaultfd (`MemoryOps`,"
            " `FileOps`); the kernel has them where it says here:",
            table(["ours", "in the kernel"], rest),
            "Of the model alone:",
            table(["ours", "what for"], model),
        )
    )


@functools.cache
def verdicts() -> Verdicts:
    """Of every mistake under every design."""
    return {
        (design, name): verdict(found, design)
        for name, found in MISBEHAVIOURS.items()
        for design in DESIGNS
        if design not in _NO_TYPE
    }


def _cell(found: Verdict) -> str:
    words = {CANNOT: "-", CONTAINED: "contained", CAUGHT: f"*caught*: {found.what}"}
    return words.get(found.kind, f"**{found.what}** ({found.race}, {found.steps} steps)")


def drivers(found: Verdicts) -> str:
    """Mistakes by designs."""
    names = [name for name in DESIGNS if name not in _NO_TYPE]
    rows = [
        [mistake.name, f"`{mistake.slot}`", *(_cell(found[design, name]) for design in names)]
        for name, mistake in MISBEHAVIOURS.items()
    ]
    sums = []
    for design in names:
        counted = Counter(found[design, name].kind for name in MISBEHAVIOURS)
        kinds = (CANNOT, CONTAINED, CAUGHT, BREAKS)
        sums.append([f"`{design}`", *(str(counted[kind]) for kind in kinds)])
    heads = ["design", CANNOT, CONTAINED, CAUGHT, "breaks a rule"]
    return "\n\n".join((table(heads, sums), table(["the mistake", "in", *names], rows)))


def timeline(design: str, name: str, race: str) -> Timeline:
    """The first schedule that shows what the mistake does."""
    built = scenario(MISBEHAVIOURS[name], design, race)
    assert built is not None
    seen = explored(built)
    assert seen.run is not None
    return tell(built, NEXT, line_of(built, NEXT.name, frozenset(), seen.run))


def steps_of(shown: Timeline) -> str:
    width = max(len(name) for name in shown.tasks.values())
    lines = []
    for number, row in enumerate(shown.rows, 1):
        told = "; ".join(row.changes)
        head = f"{number:2} {shown.tasks[row.task]:{width}} {row.point}"
        lines.append(f"{head:32} {told}".rstrip())
    assert shown.violation is not None
    lines.append(f"-> {shown.violation.name}: {shown.violation.text.splitlines()[0]}")
    return "\n".join(lines)


def timelines(found: Verdicts) -> str:
    """Some of them, step by step."""
    parts = []
    for design, name in _SHOWN:
        race = found[design, name].race
        told = steps_of(timeline(design, name, race))
        parts.append(f"`{design}`: {MISBEHAVIOURS[name].name} ({race})\n\n```\n{told}\n```")
    return "\n\n".join(parts)


def sections() -> dict[str, str]:
    """Every generated section by name."""
    found = verdicts()
    return {
        "designs": designs(),
        "upstream": upstream(),
        "drivers": drivers(found),
        "timelines": timelines(found),
    }


def written(text: str, made: dict[str, str]) -> str:
    """The page with its generated sections as they are now."""
    for name, section in made.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        parts = re.split(pattern, text, flags=re.DOTALL)
        text = f"{begin}\n{section}\n{end}".join(parts)
        assert len(parts) == 2, f"the page has no section {name}"
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), sections()))
