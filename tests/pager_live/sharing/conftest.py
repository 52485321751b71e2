"""An image in a store, and a keeper of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stores import memory, store
from userfault.pager.drivers.shared import place

PAGES = 900


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the keeper that this test has to itself."""
    folder = tmp_path / "run"
    monkeypatch.setenv(place.VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="module")
def image() -> bytes:
    """What is restored."""
    return memory(PAGES) + b"ragged"


@pytest.fixture
def packed(tmp_path: Path, image: bytes) -> Path:
    """The path that names it in a store of its own."""
    return store(tmp_path / "store", "one", image)
