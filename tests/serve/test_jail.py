"""A jailed client reaches its daemon in each of the ways that docs/firecracker.md names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import absent, need_root
from serve.daemons import serving

pytestmark = pytest.mark.usefixtures("rights")


@pytest.fixture
def rights() -> None:
    need_root()


@contextmanager
def mounted(outside: Path, inside: Path) -> Iterator[None]:
    inside.touch()
    done = subprocess.run(
        ["mount", "--bind", str(outside), str(inside)], capture_output=True, check=False
    )
    if done.returncode:
        absent(f"no bind mount can be made here: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(inside)], check=True)


@pytest.mark.parametrize("how", ["made there", "hard link", "bind mount"])
def test_a_jailed_client_is_served(tmp_path: Path, image: Path, how: str) -> None:
    """Its user may write to the socket by its group alone."""
    root = tmp_path / "jail"
    (root / "run").mkdir(parents=True)
    inside = root / "run" / "memory.sock"
    path = inside if how == "made there" else tmp_path / "outside.sock"
    arguments = ("--firecracker", str(path), "--image", str(image), "--group", str(child.NOBODY))
    with serving(tmp_path / "daemon", *arguments) as daemon, ExitStack() as end:
        if how == "hard link":
            os.link(path, inside)
        elif how == "bind mount":
            end.enter_context(mounted(path, inside))
        assert child.run("serve.jail_scenes:jailed", str(root), "/run/memory.sock") == 5
        assert "refused" not in daemon.log


def test_without_the_group_the_jail_is_shut(tmp_path: Path, image: Path) -> None:
    root = tmp_path / "jail"
    (root / "run").mkdir(parents=True)
    path = root / "run" / "memory.sock"
    with serving(tmp_path / "daemon", "--firecracker", str(path), "--image", str(image)):
        one = child.start("serve.jail_scenes:jailed", str(root), "/run/memory.sock")
        _, said = one.communicate(timeout=60)
        assert one.returncode
        assert "PermissionError" in said
