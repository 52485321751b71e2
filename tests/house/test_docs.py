"""What docs/architecture.md names is there."""

from __future__ import annotations

import re

import pytest

from cli.commands import ROOT

PACKAGE = ROOT / "src" / "userfault"
NAMED = sorted(
    set(re.findall(r"`([a-z_/]+(?:\.py|/))`", (ROOT / "docs" / "architecture.md").read_text()))
)


def test_files_and_wings_are_named() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize("name", NAMED)
def test_what_the_architecture_names_is_there(name: str) -> None:
    """Below the package, in whichever room the sentence is about, or below the project."""
    assert (ROOT / name).exists() or any(PACKAGE.rglob(name.rstrip("/"))), name
