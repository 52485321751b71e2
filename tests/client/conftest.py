"""An image whose pages identify themselves, and handlers to run the client against."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.commands import environment, userfault

PAGES = 512
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 MiB and three bytes; each page holds its number, and one in four is zeros."""
    path = tmp_path_factory.mktemp("image") / "memory"
    pages = (
        bytes(4096) if number % 4 == 3 else (number + 1).to_bytes(8, "little") * 512
        for number in range(PAGES)
    )
    path.write_bytes(b"".join(pages) + b"end")
    return path


@contextmanager
def handler(path: Path, image: Path, flaw: str = "") -> Iterator[None]:
    """The one of `handler.py`, with that flaw, until the end of the block."""
    tests = str(HERE.parent)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "handler.py"), str(path), str(image), flaw],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=f"{environment()['PYTHONPATH']}:{tests}"),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def posed(*arguments: str) -> tuple[int, dict[str, Any]]:
    """`userfault client` with these: its exit code, and what it printed as JSON."""
    ran = userfault("client", "--json", *arguments)
    assert not ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout)
