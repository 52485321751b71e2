"""Running the command `userfault` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """This one, with the package under test importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}


def command(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "userfault", *arguments]


def userfault(
    *arguments: str, cwd: Path | None = None, columns: int = 80, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(COLUMNS=str(columns)),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
