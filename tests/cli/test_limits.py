"""Every command under a limit: it works, or one message names the cause; never a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
COMMANDS = {
    "ls": ["ls", "store"],
    "info": ["info", "store/one"],
    "verify": ["verify", "store/one"],
    "diff": ["diff", "store/one", "store/one"],
    "pack": ["pack", "image", "store/two"],
    "export": ["export", "store/one", "out"],
    "gc": ["gc", "store"],
    "rm": ["rm", "store/none"],
    "probe": ["probe"],
}
LIMITS = {
    # Less, and Python does not start.
    "address space": (resource.RLIMIT_AS, [40 * MIB, 60 * MIB, 100 * MIB]),
    "descriptors": (resource.RLIMIT_NOFILE, [6, 12]),
    "file size": (resource.RLIMIT_FSIZE, [0, 4096]),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image of some chunks, and a store that has it."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "image").write_bytes(bytes(range(256)) * 1600)
    done = run(folder, ["pack", "image", "store/one"])
    assert done.returncode == 0, done.stderr
    return folder


def run(
    folder: Path, command: list[str], limit: tuple[int, int] | None = None
) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    return subprocess.run(
        [sys.executable, "-m", "userfault", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limited,  # there are no threads here
    )


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("limit", LIMITS)
def test_a_command_works_or_tells_the_limit(store: Path, name: str, limit: str) -> None:
    number, values = LIMITS[limit]
    for value in values:
        done = run(store, COMMANDS[name], (number, value))
        told = f"{limit} {value}: {done.returncode}: {done.stderr}"
        assert done.returncode in (0, 1, 2, 3), told
        assert "Traceback" not in done.stderr, told
        assert done.returncode == 0 or done.stderr.startswith("userfault: "), told
