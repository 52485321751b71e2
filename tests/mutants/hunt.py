"""One mutation: a copy of the package with it, and who notices.

A copy is judged by a process of its own (`judge.py`), so that no module of the healthy package
is in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

import userfault
from mutants.mutations import Mutation

_SOURCE = Path(userfault.__file__).parent
_TESTS = Path(__file__).parents[1]
_DEADLINE_S = 900  # some seconds where nothing else runs


class Verdict(msgspec.Struct, frozen=True):
    """Who noticed: the first statement that fails, and the first program that differs.

    `program`: its number among the random ones, 0 for a regression.
    """

    statement: str = ""
    program: int = 0
    divergence: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.statement or self.differs)

    @property
    def differs(self) -> bool:
        """Whether a program diverged."""
        return bool(self.program) or self.divergence.startswith("regression: ")


def hunt(mutation: Mutation | None, programs: int) -> Verdict:
    """Judge the package with this mutation (None: as it is)."""
    with tempfile.TemporaryDirectory(prefix="userfault-mutant-") as directory:
        package = Path(directory, "userfault")
        shutil.copytree(_SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            apply(mutation, package)
        environment = os.environ | {"PYTHONPATH": f"{directory}:{_TESTS}"}
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "mutants.judge", str(programs)],
                env=environment,
                capture_output=True,
                timeout=_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict(divergence=f"no verdict in {_DEADLINE_S} s")
    if ended.returncode:
        raise RuntimeError(f"the judge of {mutation}: {ended.stderr.decode()}")
    return msgspec.json.decode(ended.stdout, type=Verdict)


def apply(mutation: Mutation, package: Path) -> None:
    """Write it into a copy of the package; an error where its text is not there exactly once."""
    path = package / "model" / mutation.file
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has its text not exactly once")
    path.write_text(text.replace(mutation.before, mutation.after))
