"""Servers from Debian's packages: installed where that is possible, else the test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from helpers.skips import absent

_INSTALL = ("install", "-y", "-qq", "--no-install-recommends")


def need_packages(packages: Sequence[str], program: str) -> None:
    """Have `program`, from these packages; as root they are installed (no service is started)."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent(f"needs {program}: apt-get install {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    lock = ("-o", "DPkg::Lock::Timeout=300")  # another test run may install at this moment
    done = subprocess.run(
        ["apt-get", *lock, *_INSTALL, *packages],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )
    if done.returncode or not shutil.which(program):
        absent(f"{program} could not be installed: {(done.stderr or done.stdout)[-500:]}")
