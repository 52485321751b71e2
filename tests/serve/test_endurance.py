"""Clients at work notice nothing of what is done to their daemon but a pause."""

from __future__ import annotations

from pathlib import Path

from serve.endurance import run


def test_handovers_and_kills_cost_nobody_a_byte(tmp_path: Path) -> None:
    """(How long the pauses are is not asked here: `python -m tests.serve.endurance`.)"""
    result = run(tmp_path, clients=24, workers=2, replaces=2, kills=2)
    assert result.wrong == 0
    assert result.ended == 0
    assert result.times["--replace"] == 2
