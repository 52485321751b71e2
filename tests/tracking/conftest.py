"""What the tests of tracking share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.disks import disk_of_a_mebibyte
from helpers.folders import in_memory
from helpers.leaks import nothing_left


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No test leaves a descriptor or a thread."""
    with nothing_left():
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with disk_of_a_mebibyte(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def store() -> Iterator[Path]:
    """A place for a store: a save waits for the disk several times."""
    with in_memory() as folder:
        yield folder / "s"
