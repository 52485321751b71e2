"""A signal handler that raises leaves no descriptor, process or mapping, whatever it strikes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import child

SCENES = "pager_live.strike_scenes:"
NOTHING = {"strikes": True, "left": {}}


@pytest.mark.parametrize("what", ["make", "close", "block", "drop", "array", "buffer"])
def test_a_handler_that_raises_anywhere_leaves_nothing(image: Path, what: str) -> None:
    process = child.start(SCENES + "everywhere", str(image), what, 1, False)
    found = child.finish(process, 100)
    assert found == ({"strikes": False, "left": {}} if what == "drop" else NOTHING)


@pytest.mark.parametrize(("what", "step"), [("start", 3), ("block", 7)])
def test_a_handler_that_raises_while_a_pager_starts_or_ends_leaves_nothing(
    image: Path, what: str, step: int
) -> None:
    process = child.start(SCENES + "everywhere", str(image), what, step, True)
    assert child.finish(process, 100) == NOTHING


def test_a_handler_that_raises_at_random_moments_leaves_nothing(image: Path) -> None:
    process = child.start(SCENES + "by_alarms", str(image), 1, 40)
    assert child.finish(process, 100) == {"struck": True, "wrong": 0, "left": {}}
