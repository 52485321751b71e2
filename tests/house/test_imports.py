"""No module of the package imports itself by way of others.

Two modules that need each other are one in two files: neither is read, tested or replaced alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import ROOT
from house import circles

PLANTS = {
    "at the top": "from userfault.cli.check import check\n",
    "in a function": "def late() -> None:\n    import userfault.cli.check.check\n",
    "for type checkers": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from userfault.cli.check import check\n"
    ),
}


def circle_in(folder: Path) -> list[str]:
    """The circle of the package in this folder: another process looks, which has not loaded it."""
    done = subprocess.run(
        [sys.executable, "-P", circles.__file__],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_no_circle_of_imports_is_in_the_package() -> None:
    assert circle_in(ROOT / "src") == []


@pytest.mark.parametrize("where", PLANTS)
def test_a_circle_that_is_planted_is_named(tmp_path: Path, where: str) -> None:
    tree = shutil.copytree(ROOT / "src" / "userfault", tmp_path / "userfault")
    with (tree / "uapi" / "layout.py").open("a") as low:
        low.write(PLANTS[where])

    found = circle_in(tmp_path)

    assert found[0] == found[-1]
    assert found[found.index("userfault.uapi.layout") + 1] == "userfault.cli.check.check"
