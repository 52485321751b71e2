"""Compiling toucher.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

from userfault.check.live.agent.build import compiler

_SOURCE = Path(__file__).with_name("toucher.c")


def build(directory: Path) -> Path:
    """The library, made in `directory`.  Raises NoAgent without a C compiler."""
    library = directory / "toucher.so"
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC"]
    subprocess.run([*compiler(), *flags, str(_SOURCE), "-o", str(library)], check=True)
    return library
