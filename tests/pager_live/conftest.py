"""What the tests of the live pager share: images of self-describing pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.leaks import nothing_left
from helpers.pages import pages

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
