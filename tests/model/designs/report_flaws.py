"""The generated sections of docs/guest_memfd.md; `python -m` this module writes them anew."""

from __future__ import annotations

from pathlib import Path

from model.designs.flaws import FLAWS, explored, rules, scenario
from model.designs.report import steps_of, table, written
from userfault.check.explore.search import Found
from userfault.check.explore.strategies.replay import line_of
from userfault.check.explore.telling.timeline import tell
from userfault.model.profiles import NEXT

PAGE = Path(__file__).parents[3] / "docs" / "guest_memfd.md"


def _cell(found: Found) -> str:
    broken = found.violation
    if broken is None:
        assert found.exhausted
        some = f"{found.schedules} schedules" if found.schedules > 1 else "1 schedule"
        return f"holds: {some}, and no more there are"
    assert found.run is not None
    what = broken.text if broken.kind == "check" else broken.name
    return f"**{what}**, {len(found.run.steps)} steps"


def races() -> str:
    """Each race under `posted`, and with the corrected hooks, checked and as Linux calls them."""
    rows = [
        [found.letter, found.sentence, *(_cell(explored(name, of)) for of in _DESIGNS)]
        for name, found in FLAWS.items()
    ]
    return table(["flaw", "race", *(f"`{name}`" for name in _DESIGNS)], rows)


_DESIGNS = ("posted", "merged", "ours")


def timelines() -> str:
    """What `posted` does, step by step."""
    parts = []
    for name, found in FLAWS.items():
        seen = explored(name, "posted")
        if seen.run is None:
            continue
        race = scenario(name, "posted")
        line = line_of(race, NEXT.name, frozenset(), seen.run)
        told = steps_of(tell(race, NEXT, line, rules(name)))
        parts.append(f"{found.letter}: {found.sentence}\n\n```\n{told}\n```")
    return "\n\n".join(parts)


def sections() -> dict[str, str]:
    """Every generated section by name."""
    return {"races": races(), "timelines": timelines()}


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), sections()))
