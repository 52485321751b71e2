"""File systems that are soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.skips import absent, need_root


@contextmanager
def disk_of_a_mebibyte(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB at `folder`, which is made."""
    need_root()
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        absent(f"cannot mount a tmpfs: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
