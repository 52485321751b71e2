"""A file, and programs that map it, run by `userfault exec`."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands import command, environment
from helpers.skips import absent
from userfault.exec.library import library
from userfault.kernel.errors import UserfaultError
from userfault.linux.opening import open_userfaultfd

SCENES = Path(__file__).with_name("scenes.py")
SIZE = (8 << 20) + 1234

Done = subprocess.CompletedProcess[str]
Exec = Callable[..., Done]


@pytest.fixture(scope="session")
def possible() -> None:
    """The library can be built, and a userfaultfd be opened."""
    import os

    try:
        library()
        os.close(open_userfaultfd(user_mode_only=False).fd)
    except UserfaultError as error:
        absent(str(error))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of incompressible bytes that is no whole pages."""
    path = tmp_path / "data"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def scene(name: str, path: Path, *more: object) -> list[str]:
    """The command of a scene."""
    return [sys.executable, "-I", "-S", str(SCENES), name, str(path), *map(str, more)]


def words(options: list[object], program: list[str]) -> list[str]:
    """The command line of `userfault exec`."""
    return command("exec", *map(str, options), "--", *program)


@pytest.fixture
def run(possible: None) -> Exec:  # noqa: ARG001  # skips
    """Run a program to its end: `run(options, program)`."""

    def run_it(options: list[object], program: list[str], **more: str) -> Done:
        return subprocess.run(
            words(options, program),
            env=environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_it
