"""The C clients, built once, and an image whose pages identify themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.daemons import build

PAGES = 512


@pytest.fixture(scope="session")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client of Firecracker's handshake."""
    return build("vm.c", tmp_path_factory.mktemp("vm"))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 MiB; each page begins with its number, and one in four is zeros."""
    path = tmp_path_factory.mktemp("image") / "memory"
    zeros = bytes(4096)
    pages = (
        zeros if number % 4 == 3 else number.to_bytes(8, "little") * 512 for number in range(PAGES)
    )
    path.write_bytes(b"".join(pages))
    return path
