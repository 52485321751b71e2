"""Compiling toucher.c."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("toucher.c")


class CompilerMissingError(Exception):
    """There is no C compiler for the touching threads."""


def build(directory: Path) -> Path:
    """The library, made in `directory`."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise CompilerMissingError("the stress test needs a C compiler: install gcc, or set CC")
    library = directory / "toucher.so"
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], check=True)
    return library
