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
    done = _run("--tiny", *options, name, "--json", str(written), timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(written.read_bytes())
    return found


def refusal_of(*words: str, timeout_s: float = 100.0) -> str:
    """What a run that cannot be says at its end."""
    done = _run("--tiny", *words, timeout_s=timeout_s)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def _run(*words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    source = Path(userfault.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
