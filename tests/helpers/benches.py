"""Runs of `python -m bench` at small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import userfault

_ROOT = Path(__file__).parents[2]


def report_of(name: str, folder: Path, *options: str, timeout_s: float) -> dict[str, Any]:
    """What a run of one benchmark wrote."""
    written = folder / "report.json"
    source = Path(userfault.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny", *options, name, "--json", str(written)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(written.read_bytes())
    return found
