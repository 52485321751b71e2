"""Every example runs as it is, and says something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import ROOT, environment

EXAMPLES = ROOT / "examples"
# Modules that examples import: a function source must lie in a module of its own.
SOURCES = {"squares.py", "flaky.py"}


def examples() -> list[Path]:
    return sorted(path for path in EXAMPLES.glob("*.py") if path.name not in SOURCES)


def test_there_are_examples() -> None:
    assert len(examples()) >= 5


@pytest.mark.parametrize("example", examples(), ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
