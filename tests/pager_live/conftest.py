"""What the tests of the live pager share: images of self-describing pages, a lock for pools."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.leaks import nothing_left
from helpers.pages import pages
from helpers.world import PoolLock

PAGES = 2048  # 8 MiB: four huge pages
TAIL = b"ragged"


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `PAGES` self-describing pages (page n holds n + 1) and a ragged last one."""
    path = tmp_path_factory.mktemp("images") / "image"
    path.write_bytes(pages(1, PAGES) + TAIL)
    return path


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No test leaves a descriptor or a thread."""
    with nothing_left():
        yield


@contextlib.contextmanager
def pool_lock() -> Iterator[None]:
    """The hugetlb pools are one for the machine: hold them, and check that they are put back."""
    lock = PoolLock()
    try:
        yield
    finally:
        lock.release()
