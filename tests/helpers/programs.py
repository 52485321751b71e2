"""Programs that tests compare with, installed from Debian where they are absent."""

from __future__ import annotations

import os
import shutil
import subprocess

from helpers.skips import absent


def need_program(program: str, package: str) -> None:
    """Have `program` on the path; as root its package is installed."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent(f"needs {program} (Debian's package {package})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "-qq", package]):
        subprocess.run(
            ["apt-get", "-qq", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if not shutil.which(program):
        absent(f"{program} is not here, and Debian's package {package} could not be installed")
