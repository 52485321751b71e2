"""What the tests of tracking share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.disks import disk_of_a_mebibyte
from helpers.leaks import nothing_left

SHM = "/dev/shm"


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
    """A place for a store, in memory where there is such a file system: a save waits for the disk
    several times."""
    with tempfile.TemporaryDirectory(dir=SHM if os.path.isdir(SHM) else None) as folder:
        yield Path(folder) / "s"
