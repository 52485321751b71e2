"""What docs/pager.md says about states and errors is what the code does."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from userfault.pager.core.refusals import _REFUSALS
from userfault.pager.core.states import MOVES, NAMES, UNSETTLED

TEXT = (Path(__file__).parents[2] / "docs" / "pager.md").read_text()


def rows(below: str) -> list[list[str]]:
    """The cells of the first table below a line of the essay."""
    lines = TEXT.split(below, 1)[1].splitlines()
    table = []
    for line in lines[1:]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_the_table_of_moves_is_the_codes() -> None:
    written = {old: new.split(", ") for old, new in rows("<!-- moves:")}

    expected = {
        NAMES[old]: [NAMES[new] for new in sorted(news)] for old, news in sorted(MOVES.items())
    }
    assert written == expected


def test_every_state_is_explained() -> None:
    assert [row[0] for row in rows("## The states of a page")] == list(NAMES)


def test_the_unsettled_states_are_named() -> None:
    sentence = re.search(r"^(.*) are \*unsettled\*", TEXT, re.MULTILINE)
    assert sentence
    named = set(re.split(r", | and ", sentence[1]))
    assert named == {NAMES[state] for state in UNSETTLED}


def test_every_errno_that_is_handled_is_explained() -> None:
    explained = {name.split(",")[0] for name, _, _ in rows("## What fills meet")}
    assert {errno.errorcode[code] for code in _REFUSALS} <= explained
